// Varve from Node: @grpc/grpc-js, with the schema read from proto/ when it runs.
//
//     node example.mjs [HOST:PORT]

import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';
import { fileURLToPath } from 'node:url';

const protoDir = process.env.VARVE_PROTO ?? fileURLToPath(new URL('../../proto', import.meta.url));
const load = (...files) =>
  // 64-bit numbers as strings: LSNs may be more than a JavaScript number can say.
  loader.loadSync(files, { includeDirs: [protoDir], keepCase: true, longs: String, defaults: true });
const { varve } = grpc.loadPackageDefinition(load('varve/v1/kv.proto', 'varve/v1/watch.proto'));
const rpc = load('google/rpc/status.proto', 'google/rpc/error_details.proto');

const address = process.argv[2] ?? '127.0.0.1:7700';
// With TLS and a token: grpc.credentials.createSsl(ca), and metadata.set('authorization', `Bearer ${token}`).
const credentials = grpc.credentials.createInsecure();
const kv = new varve.v1.KV(address, credentials);
const watch = new varve.v1.Watch(address, credentials);

const within = (seconds) => ({ deadline: Date.now() + seconds * 1000 });
const call = (method, request) =>
  new Promise((resolve, reject) =>
    kv[method](request, within(30), (error, answer) => (error ? reject(error) : resolve(answer))),
  );
const bytes = (text) => Buffer.from(text);
const put = (key, value) => ({ put: { key: bytes(key), value: bytes(value) } });

// Compare-and-set: write only if the key still is as it was read. An LSN of 0 means that it is not there.
async function increment(key) {
  for (;;) {
    const was = await call('Get', { key: bytes(key) });
    const value = Number(was.value.toString()) + 1;
    const { applied } = await call('Write', {
      ops: [put(key, String(value))],
      conditions: [{ key: bytes(key), lsn_equals: was.lsn }],
    });
    if (applied) return value;
  }
}

// The keys of a range, some at a time, all of one state of the database.
async function* pages(prefix, limit) {
  let page_token = Buffer.alloc(0);
  do {
    const keys = [];
    for await (const message of kv.Scan({ prefix: bytes(prefix), limit, page_token, keys_only: true }, within(30))) {
      keys.push(...message.entries.map((entry) => entry.key.toString()));
      page_token = message.page_token;
    }
    yield keys;
  } while (page_token.length > 0);
}

// The first change in a range, from an LSN on. Messages without events are marks of progress.
const firstChange = (prefix, from_lsn) =>
  new Promise((resolve, reject) => {
    const changes = watch.Watch({ prefix: bytes(prefix), from_lsn }, within(30));
    changes.on('error', reject); // its cancellation among them, which is late
    changes.on('data', ({ events }) => {
      if (events.length === 0) return;
      resolve(events[0]);
      changes.cancel();
    });
  });

// The reason behind a gRPC status: the ErrorInfo in its details.
function errorReason(error) {
  const [details] = error.metadata.get('grpc-status-details-bin');
  const any = details && rpc['google.rpc.Status'].deserialize(details).details.find((d) => d.type_url.endsWith('.ErrorInfo'));
  return any ? rpc['google.rpc.ErrorInfo'].deserialize(any.value).reason : '';
}

// Acknowledged means: on the disk.
await call('Put', { key: bytes('greeting'), value: bytes('hello') });
console.log(`greeting = ${(await call('Get', { key: bytes('greeting') })).value}`);
if (!(await call('Get', { key: bytes('nobody') })).found) console.log('nobody is not there');

console.log(`visits = ${await increment('visits')}`);
console.log(`visits = ${await increment('visits')}`);
const late = await call('Write', {
  ops: [{ delete: { key: bytes('visits') } }],
  conditions: [{ key: bytes('visits'), value_equals: bytes('1') }],
});
if (!late.applied) console.log('a write on an old state was refused');

// Several operations as one.
const names = ['apple', 'banana', 'cherry', 'damson', 'elder'];
await call('Write', { ops: names.map((name) => put(`fruit/${name}`, 'ripe')) });
for await (const keys of pages('fruit/', 2)) console.log('page:', ...keys);

// A watch from an LSN misses nothing, whatever is written before it has begun.
const { lsn } = await call('Put', { key: bytes('greeting'), value: bytes('good-bye') });
const event = await firstChange('greeting', lsn);
console.log(`watched: put ${event.key} = ${event.value}`);

try {
  await call('Get', { key: bytes('') });
} catch (error) {
  console.log(`error: ${grpc.status[error.code]} ${errorReason(error)}`);
}

kv.close();
watch.close();
