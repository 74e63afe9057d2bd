// Real servers for tests: the program that DOTMAX_SERVER_BINARY names.
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';

const started = [];

/** Starts a server on free ports; its address, once it is ready. */
export async function serve(...flags) {
  const child = spawn(process.env.DOTMAX_SERVER_BINARY, ['--listen=127.0.0.1:0', '--metrics-listen=', '--threads=1', ...flags], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  started.push(child);
  let port;
  for await (const line of createInterface({ input: child.stderr })) {
    const event = JSON.parse(line);
    if (event.event === 'listening') port = event.grpc_port;
    if (event.event === 'ready') {
      child.stderr.resume();
      return `127.0.0.1:${port}`;
    }
  }
  throw new Error('the server does not start');
}

export function stop() {
  for (const child of started) child.kill();
}
