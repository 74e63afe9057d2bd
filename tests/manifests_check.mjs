// deploy/kubernetes and deploy/compose against the schemas of Kubernetes' API, against each other, and against the server's
// own flags. Usage: node manifests_check.mjs ROOT DOTMAX_SERVER (by manifests_check.sh)
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import * as yaml from 'js-yaml';

const [root, server] = process.argv.slice(2);
const read = (...names) => readFileSync(path.join(root, ...names), 'utf8');
const help = execFileSync(server, ['--help'], { encoding: 'utf8' });

function checkFlags(words) {
  for (const word of words) {
    const [, flag] = /^(--[a-z-]+)=/.exec(word) ?? [];
    assert.ok(flag && help.includes(`\n  ${flag}=`), `there is no flag ${word}`);
  }
}
const checkVariable = (name) => assert.ok(help.replace(/\s+/g, ' ').includes(`environment ${name})`), `there is no variable ${name}`);

async function loadObjects(file) {
  const objects = yaml.loadAll(read(file));
  for (const object of objects) {
    // "apps/v1" is the module kubernetes-models/apps/v1, with a class for each kind; the operator's are a package of their own.
    const of = object.apiVersion.startsWith('monitoring.coreos.com') ? '@kubernetes-models/prometheus-operator' : 'kubernetes-models';
    const models = await import(`${of}/${object.apiVersion}`);
    new models[object.kind](object).validate();
  }
  return objects;
}
const objects = await loadObjects('deploy/kubernetes/base/dotmax.yaml');
// That validation finds what is wrong:
const { Deployment } = await import('kubernetes-models/apps/v1');
assert.throws(() => new Deployment({ metadata: {}, spec: { replicas: 'two' } }).validate());

const [service, deployment, budget, scaler, claim, policy] = objects;
const pod = deployment.spec.template;
const [container] = pod.spec.containers;
checkFlags(container.args);
checkVariable('DOTMAX_MATRIX');
const [monitor] = await loadObjects('deploy/kubernetes/monitoring/service-monitor.yaml');
for (const [name, value] of Object.entries(monitor.spec.selector.matchLabels)) assert.equal(service.metadata.labels[name], value);
assert.ok(service.spec.ports.some(({ name }) => name === monitor.spec.endpoints[0].port));
for (const [name, value] of Object.entries(policy.spec.podSelector.matchLabels)) assert.equal(pod.metadata.labels[name], value);
assert.deepEqual(policy.spec.ingress.flatMap((rule) => rule.ports.map(({ port }) => port)), container.ports.map(({ name }) => name));
// Kustomize: everything that is there is in a list, and the other way round.
for (const folder of ['deploy/kubernetes/base', 'deploy/kubernetes/monitoring']) {
  const { kind, resources } = yaml.load(read(folder, 'kustomization.yaml'));
  assert.equal(kind, 'Kustomization');
  const files = readdirSync(path.join(root, folder)).filter((name) => name.endsWith('.yaml') && name !== 'kustomization.yaml');
  assert.deepEqual(resources.filter((name) => name.endsWith('.yaml')), files);
  for (const base of resources.filter((name) => !name.endsWith('.yaml'))) {
    assert.ok(existsSync(path.join(root, folder, base, 'kustomization.yaml')));
  }
}
for (const selector of [service.spec.selector, deployment.spec.selector.matchLabels, budget.spec.selector.matchLabels]) {
  for (const [name, value] of Object.entries(selector)) assert.equal(pod.metadata.labels[name], value);
}
assert.deepEqual([scaler.spec.scaleTargetRef.kind, scaler.spec.scaleTargetRef.name], ['Deployment', deployment.metadata.name]);
const { metric } = scaler.spec.metrics[0].pods;
assert.ok(read('ARCHITECTURE.md').includes(`\n| \`${metric.name}\` |`), `there is no ${metric.name}`);
assert.equal(pod.spec.volumes[0].persistentVolumeClaim.claimName, claim.metadata.name);
assert.equal(service.spec.clusterIP, 'None');
const ports = Object.fromEntries(container.ports.map(({ name, containerPort }) => [name, containerPort]));
assert.deepEqual(ports, { grpc: 50051, http: 9464 });
for (const { targetPort, port } of service.spec.ports) assert.equal(ports[targetPort], port);
assert.equal(container.readinessProbe.grpc.port, ports.grpc);
const seconds = Object.fromEntries(container.args.map((word) => /^--(drain-\w+)=(\d+)s$/.exec(word)?.slice(1) ?? []));
assert.ok(Number(seconds['drain-grace']) + Number(seconds['drain-timeout']) < pod.spec.terminationGracePeriodSeconds);
const version = /project\(dotmax VERSION (\S+)/.exec(read('CMakeLists.txt'))[1];
assert.equal(container.image, `dotmax:${version}`);
const user = /^USER (\d+):(\d+)$/m.exec(read('Dockerfile'));
assert.deepEqual([pod.spec.securityContext.runAsUser, pod.spec.securityContext.runAsGroup], [Number(user[1]), Number(user[2])]);

const compose = yaml.load(read('deploy/compose/compose.yaml')).services;
checkFlags(compose.dotmax.command);
for (const name of Object.keys(compose.dotmax.environment)) checkVariable(name);
for (const { volumes } of Object.values(compose)) {
  for (const [source] of volumes.map((volume) => volume.split(':'))) {
    if (source.startsWith('.')) assert.ok(existsSync(path.join(root, 'deploy/compose', source)), `there is no ${source}`);
  }
}
for (const file of ['datasource', 'dashboards']) assert.equal(yaml.load(read(`deploy/compose/grafana/${file}.yaml`)).apiVersion, 1);
console.log('manifests are as Kubernetes and the server want them');
