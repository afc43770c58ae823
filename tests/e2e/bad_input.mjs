// Bad input through the Node client: each refused call has its status and reason. Run by test_bad_input.py with
// an address and the server's MAX_VALUE_SIZE.

import assert from 'node:assert/strict';
import { errorInfo, grpc, openKv } from './node_grpc.mjs';

const [address, maxValueText] = process.argv.slice(2);
const maxValue = Number(maxValueText);
const kv = openKv(address);
const MS = 20_000;
const { INVALID_ARGUMENT, UNIMPLEMENTED, RESOURCE_EXHAUSTED } = grpc.status;

async function refused(promise, code, reason, words) {
  const e = await promise.then(
    (answer) => assert.fail(`${words}: answered ${JSON.stringify(answer)}`),
    (error) => error,
  );
  assert.equal(e.code, code, `${words}: ${e.message}`);
  assert.ok(e.details.length > 0, `${words}: says nothing`);
  if (reason === null) return;
  const info = errorInfo(e);
  assert.ok(info, `${words}: no ErrorInfo`);
  assert.equal(info.domain, 'varve', words);
  assert.equal(info.reason, reason, words);
}

const value = Buffer.from('v');
for (const [key, reason] of [
  [Buffer.alloc(0), 'KEY_EMPTY'],
  [Buffer.alloc(65536, 'k'), 'KEY_TOO_LONG'],
]) {
  await refused(kv.call('Get', { key }, MS), INVALID_ARGUMENT, reason, `Get ${reason}`);
  await refused(kv.call('Put', { key, value }, MS), INVALID_ARGUMENT, reason, `Put ${reason}`);
  await refused(kv.call('Delete', { key }, MS), INVALID_ARGUMENT, reason, `Delete ${reason}`);
  const ops = [{ put: { key: Buffer.from('bystander'), value } }, { put: { key, value } }];
  await refused(kv.call('Write', { ops }, MS), INVALID_ARGUMENT, reason, `Write ${reason}`);
}

const large = Buffer.alloc(maxValue + 1);
const key = Buffer.from('large');
await refused(kv.call('Put', { key, value: large }, MS), INVALID_ARGUMENT, 'VALUE_TOO_LARGE', 'Put one byte too large');
await refused(kv.call('Write', { ops: [{ put: { key, value: large } }] }, MS), INVALID_ARGUMENT, 'VALUE_TOO_LARGE', 'Write');
await refused(kv.call('Put', { key, value: Buffer.alloc(64 << 20) }, MS), RESOURCE_EXHAUSTED, null, 'far too large');
await refused(kv.call('Write', { ops: [] }, MS), INVALID_ARGUMENT, 'BATCH_EMPTY', 'Write of nothing');

for (const bytes of [[0xff], [0x0a, 0x7f, 0x61], [0x0b], [0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], [0x00, 0x01]]) {
  for (const method of ['Get', 'Put', 'Delete', 'Write']) {
    const words = `${method} of ${Buffer.from(bytes).toString('hex')}`;
    await refused(kv.raw(`/varve.v1.KV/${method}`, Buffer.from(bytes), MS), INVALID_ARGUMENT, 'MALFORMED', words);
  }
}
for (const name of ['/varve.v1.KV/Nothing', '/varve.v1.Nothing/Get', '/x'])
  await refused(kv.raw(name, Buffer.from([0x0a, 0x01, 0x6b]), MS), UNIMPLEMENTED, null, name);

kv.close();
console.log('the Node client was refused everything that it should be');
