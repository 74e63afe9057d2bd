// A client that has no protos: it learns them from the server, by reflection.
import assert from 'node:assert/strict';
import path from 'node:path';
import { after, test } from 'node:test';
import { credentials } from '@grpc/grpc-js';
import reflection from 'grpc-js-reflection-client';
import { serve, stop } from './servers.js';

after(stop);

test('reflection is enough to ask', async () => {
  const target = await serve(`--matrix=${path.join(process.env.DOTMAX_CONFORMANCE, 'words.npy')}`);
  const learned = new reflection.GrpcReflection(target, credentials.createInsecure());
  const services = await learned.listServices();
  for (const name of ['dotmax.v1.Dotmax', 'dotmax.v1.Collections', 'grpc.health.v1.Health']) {
    assert.ok(services.includes(name), `${name} is not among ${services}`);
  }
  const descriptor = await learned.getDescriptorBySymbol('dotmax.v1.Dotmax');
  const { Dotmax } = descriptor.getPackageObject({ keepCase: true, longs: Number }).dotmax.v1;
  const client = new Dotmax(target, credentials.createInsecure());
  const request = { queries: { rows: 1, dim: 3, values: [1, 2, 3] }, top_k: 3 };
  const reply = await new Promise((resolve, reject) => {
    client.Search(request, (error, response) => (error ? reject(error) : resolve(response)));
  });
  assert.deepEqual(reply.ids, [6, 1, 0]);
  assert.deepEqual(reply.scores, [18, 9, 2]);
  client.close();
});
