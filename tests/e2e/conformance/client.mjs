// The conformance client in Node: @grpc/grpc-js with the schema read from proto/ when it runs. README.md tells what
// the cases mean.
//
//     node client.mjs ADDRESS CASES.json

import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { grpc, loader, protoDir } from '../node_grpc.mjs';

const definition = loader.loadSync(
  ['varve/v1/kv', 'varve/v1/watch', 'varve/v1/snapshots', 'varve/v1/replication', 'varve/v1/admin',
    'grpc/health/v1/health', 'grpc/reflection/v1/reflection', 'grpc/reflection/v1alpha/reflection', 'google/rpc/error_details',
  ].map((name) => path.join(protoDir, `${name}.proto`)),
  { includeDirs: [protoDir], keepCase: true, longs: String, enums: String, bytes: String, oneofs: false },
);

class Mismatch extends Error {}

// ---- the small language of the cases ----

// A request with "$name", "$name+1" and "$~name" replaced.
function fill(value, names) {
  if (Array.isArray(value)) return value.map((item) => fill(item, names));
  if (value !== null && typeof value === 'object')
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, fill(item, names)]));
  if (typeof value !== 'string' || !value.startsWith('$')) return value;
  if (value.startsWith('$~')) {
    const token = Buffer.from(names[value.slice(2)], 'base64');
    token[token.length - 1] ^= 1;
    return token.toString('base64');
  }
  const [name, more] = value.slice(1).split('+');
  return more === undefined ? names[name] : String(BigInt(names[name]) + BigInt(more));
}

// Whether an answer is as wanted; binds the names that it meets first.
function match(want, got, names) {
  if (want === '$_') return got != null;
  if (typeof want === 'string' && want.startsWith('$')) {
    const name = want.slice(1);
    if (/^\w+$/.test(name) && !(name in names)) {
      names[name] = got;
      return got != null;
    }
    return got === fill(want, names);
  }
  if (Array.isArray(want) && Array.isArray(got)) {
    if (want[0] === '...') return want.slice(1).every((item) => got.some((other) => match(item, other, names)));
    return want.length === got.length && want.every((item, i) => match(item, got[i], names));
  }
  if (want !== null && got != null && typeof want === 'object' && typeof got === 'object')
    return (
      Object.entries(want).every(([key, item]) => key === '...' || match(item, got[key], names)) &&
      ('...' in want || Object.keys(got).every((key) => key in want))
    );
  return want === (got ?? null);
}

// A stream as one message: lists are joined, of anything else the last message's counts.
function fold(messages) {
  const whole = { ...messages.at(-1) };
  for (const message of messages)
    for (const [name, value] of Object.entries(message))
      if (Array.isArray(value)) whole[name] = messages.flatMap((other) => other[name] ?? []);
  return whole;
}

function enough(until, messages) {
  if (!until) return false;
  const [name, count] = until;
  return (name ? (fold(messages)[name] ?? []).length : messages.length) >= count;
}

// ---- messages as proto3's JSON: what has its default is left out, and an Any is what is in it ----

function plain(value) {
  if (Array.isArray(value)) return value.map(plain);
  if (value === null || typeof value !== 'object') return value;
  if ('type_url' in value) {
    const name = value.type_url.split('/').pop();
    return { '@type': value.type_url, ...plain(definition[name].deserialize(Buffer.from(value.value, 'base64'))) };
  }
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plain(item)]));
}

function errorOf(e) {
  if (e.code === undefined) throw e;
  const [bytes] = e.metadata.get('grpc-status-details-bin');
  const status = bytes ? plain(definition['google.rpc.Status'].deserialize(bytes)) : {};
  if (bytes && (status.code !== e.code || status.message !== e.details))
    throw new Mismatch(`details ${JSON.stringify(status)} contradict ${e.code} ${e.details}`);
  return { ...status, code: e.code, message: e.details };
}

// ---- calls ----

class Client {
  constructor(address) {
    const options = { 'grpc.enable_retries': 0, 'grpc.max_receive_message_length': -1 };
    this.client = new grpc.Client(address, grpc.credentials.createInsecure(), options);
    this.streams = {};
  }

  // A call under way: an iterator of answers, and its stream if it takes several requests.
  start(step, names) {
    const metadata = new grpc.Metadata();
    for (const [key, value] of Object.entries(step.metadata ?? {})) metadata.set(key, value);
    const options = { deadline: Date.now() + (step.deadline_ms ?? 20_000) };
    const same = (bytes) => bytes;
    const unary = (...args) =>
      new Promise((resolve, reject) =>
        this.client.makeUnaryRequest(...args, metadata, options, (e, answer) => (e ? reject(e) : resolve(answer))),
      );
    const one = async function* (answer) {
      yield await answer;
    };
    if ('raw' in step)
      return { answers: one(unary(`/${step.rpc}`, same, () => ({}), Buffer.from(step.raw, 'base64'))) };
    const [service, name] = step.rpc.split('/');
    const { path: full, requestStream, responseStream, requestSerialize, responseDeserialize } =
      definition[service][name];
    const args = [full, requestSerialize, responseDeserialize];
    if (requestStream) {
      const call = this.client.makeBidiStreamRequest(...args, metadata, options);
      return { call, send: (request) => call.write(fill(request, names)), answers: call[Symbol.asyncIterator]() };
    }
    const request = fill(step.request ?? {}, names);
    if (!responseStream) return { answers: one(unary(...args, request)) };
    const call = this.client.makeServerStreamRequest(...args, request, metadata, options);
    return { call, answers: call[Symbol.asyncIterator]() };
  }

  // One step; one with again_ms is tried for that long until it is as wanted.
  async run(step, names) {
    const end = Date.now() + (step.again_ms ?? 0);
    for (;;) {
      const bound = { ...names };
      try {
        await this.once(step, bound);
        Object.assign(names, bound);
        return;
      } catch (e) {
        if (!(e instanceof Mismatch) || Date.now() > end) throw e;
        await pause(10);
      }
    }
  }

  async once(step, names) {
    const messages = [];
    let error = null;
    try {
      const stream = 'on' in step ? this.streams[step.on] : this.start(step, names);
      if (stream.send) {
        for (const request of step.requests ?? []) stream.send(request);
        if (!step.until) stream.call.end();
      }
      while (!enough(step.until, messages)) {
        const { value, done } = await stream.answers.next();
        if (done && step.until) throw new Mismatch(`the stream ended after ${JSON.stringify(messages)}`);
        if (done) break;
        messages.push(plain(value));
      }
      if (step.keep) this.streams[step.keep] = stream;
      else if (step.until) {
        stream.call.on('error', () => {}); // that it was cancelled
        stream.call.cancel();
      }
    } catch (e) {
      if (e instanceof Mismatch) throw e;
      error = errorOf(e);
    }
    check(step, messages, error, names);
  }
}

function check(step, messages, error, names) {
  const say = JSON.stringify;
  if (!match(step.error ?? null, error, names))
    throw new Mismatch(`wanted error ${say(step.error ?? null)}, got ${say(error)}`);
  if ('expect' in step && !match(step.expect, fold(messages), names))
    throw new Mismatch(`wanted ${say(step.expect)}, got ${say(fold(messages))}`);
  if (!('each' in step)) return;
  const left = [...messages];
  for (const want of step.each) {
    const i = left.findIndex((got) => match(want, got, { ...names }));
    if (i < 0) throw new Mismatch(`wanted ${say(want)}, got ${say(left)}`);
    match(want, left[i], names);
    left.splice(i, 1);
  }
  if (left.length > 0) throw new Mismatch(`not wanted: ${say(left)}`);
}

const [address, file] = process.argv.slice(2);
const client = new Client(address);
for (const { name, steps } of JSON.parse(fs.readFileSync(file, 'utf8'))) {
  const names = {};
  let line = `pass ${name}`;
  for (const [i, step] of steps.entries()) {
    try {
      await client.run(step, names);
    } catch (e) {
      if (!(e instanceof Mismatch)) throw e;
      line = `FAIL ${name}: step ${i + 1}, ${step.rpc ?? step.on}: ${e.message}`;
      process.exitCode = 1;
      break;
    }
  }
  console.log(line);
}
client.client.close();
