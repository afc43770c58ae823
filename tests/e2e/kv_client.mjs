// The Node client: @grpc/grpc-js with the schema loaded from proto/ at run time. A worker for test_durability.py,
// with the actions, arguments and output of its twin kv_client.py.

import crypto from 'node:crypto';
import fs from 'node:fs';
import { grpc, openKv } from './node_grpc.mjs';

const TASKS = 48; // writes in flight
const BYTES_IN_FLIGHT = 48 << 20;
const CALL_MS = 60_000;

const digest = (value) => crypto.createHash('sha256').update(value).digest('hex');
const b64 = (key) => key.toString('base64');

// mulberry32: the same choices for the same seed everywhere.
function random(seed) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const below = (n) => Math.floor(next() * n);
  const sample = (list, count) => {
    const copy = [...list];
    for (let i = 0; i < count; i++) {
      const j = i + below(copy.length - i);
      [copy[i], copy[j]] = [copy[j], copy[i]];
    }
    return copy.slice(0, count);
  };
  return { next, below, sample, choice: (list) => list[below(list.length)] };
}

// Bounds the bytes of the values that are under way.
class Budget {
  constructor(limit) {
    this.limit = limit;
    this.left = limit;
    this.waiting = [];
  }
  async take(amount) {
    amount = Math.min(amount, this.limit);
    while (this.waiting.length > 0 || this.left < amount) {
      await new Promise((wake) => this.waiting.push(wake));
      if (this.left >= amount) break;
    }
    this.left -= amount;
    return amount;
  }
  give(amount) {
    this.left += amount;
    for (const wake of this.waiting.splice(0)) wake();
  }
}

// Writes and keeps book. Each key is written by one task alone, so that its state is never in doubt.
class Writer {
  constructor(kv, model, killed) {
    this.kv = kv;
    this.killed = killed; // whether the server is to be lost
    this.keys = model.keys;
    this.unknown = model.unknown;
    this.acked = 0;
    this.lost = false;
    this.budget = new Budget(BYTES_IN_FLIGHT);
  }

  // ops: [[key, value or null]]; one is a Put or Delete, several are a Write. False: the server is gone.
  async write(ops) {
    const taken = await this.budget.take(ops.reduce((sum, [, value]) => sum + (value?.length ?? 0), 0));
    let response;
    try {
      const [key, value] = ops[0];
      if (ops.length > 1) {
        const message = ops.map(([k, v]) => (v === null ? { delete: { key: k } } : { put: { key: k, value: v } }));
        response = await this.kv.call('Write', { ops: message }, CALL_MS);
      } else if (value === null) {
        response = await this.kv.call('Delete', { key }, CALL_MS);
      } else {
        response = await this.kv.call('Put', { key, value }, CALL_MS);
      }
    } catch (e) {
      if (e.code !== grpc.status.UNAVAILABLE || !this.killed) throw e;
      this.lost = true;
      const group = {};
      for (const [key, value] of ops) {
        const name = b64(key);
        this.keys[name] ??= null;
        group[name] = { old: this.keys[name], new: value === null ? null : digest(value) };
      }
      this.unknown.push(group);
      return false;
    } finally {
      this.budget.give(taken);
    }
    if (!response.applied) throw new Error('a write without conditions was not applied');
    const firstLsn = Number(response.lsn) - ops.length + 1;
    ops.forEach(([key, value], i) => {
      this.keys[b64(key)] = value === null ? null : [digest(value), firstLsn + i];
    });
    if (++this.acked % 10 === 0) console.log(`acked ${this.acked}`);
    return true;
  }
}

const inParallel = (count, task) => Promise.all(Array.from({ length: count }, (_, number) => task(number)));

async function load(writer, paths, rng) {
  const todo = paths.values();
  await inParallel(TASKS, async () => {
    for (const path of todo) await writer.write([[path, fs.readFileSync(path)]]);
  });

  const doomed = rng.sample(paths, Math.floor(paths.length / 10));
  const groups = [];
  for (let i = 0; i < doomed.length; i += 5) groups.push(doomed.slice(i, i + 5));
  const batches = groups.values();
  await inParallel(TASKS, async () => {
    for (const group of batches) {
      // Half of them one by one, half as a batch that leaves a note in place of what goes.
      if (rng.next() < 0.5) {
        for (const path of group) await writer.write([[path, null]]);
      } else {
        const note = [Buffer.concat([Buffer.from('gone/'), group[0]]), Buffer.concat(group)];
        await writer.write([...group.map((path) => [path, null]), note]);
      }
    }
  });
}

// Puts (some of them megabytes), deletes and batches over the tree's keys, until the server is gone.
async function churn(writer, paths, rng) {
  await inParallel(TASKS, async (number) => {
    const mine = paths.filter((_, i) => i % TASKS === number);
    const own = random(Math.floor(rng.next() * 2 ** 32));
    for (let turn = 0; !writer.lost; turn++) {
      const value = () =>
        Buffer.concat([Buffer.from(`${number} ${turn} `), fs.readFileSync(own.choice(paths)).subarray(own.below(64))]);
      const dice = own.next();
      if (dice < 0.55) {
        await writer.write([[own.choice(mine), value()]]);
      } else if (dice < 0.7) {
        await writer.write([[own.choice(mine), null]]);
      } else {
        const keys = own.sample(mine, Math.min(mine.length, 2 + own.below(7)));
        await writer.write(keys.map((key) => [key, own.next() < 0.7 ? value() : null]));
      }
    }
  });
}

async function verify(kv, model) {
  const found = {};
  const todo = Object.keys(model.keys).values();
  await inParallel(16, async () => {
    for (const name of todo) {
      const r = await kv.call('Get', { key: Buffer.from(name, 'base64') }, CALL_MS);
      if (!r.found && (r.value.length > 0 || r.lsn !== '0')) throw new Error('not found, but with a value');
      found[name] = r.found ? [digest(r.value), Number(r.lsn)] : null;
    }
  });
  return settle(model, found);
}

// As settle() in model.py.
function settle(model, found) {
  const same = (a, b) => JSON.stringify(a ?? null) === JSON.stringify(b ?? null);
  const complaints = [];
  const open = new Set();
  for (const group of model.unknown) {
    const entries = Object.entries(group);
    for (const [key] of entries) open.add(key);
    const old = entries.every(([key, state]) => same(found[key], state.old));
    const now = entries.every(([key, state]) => (found[key]?.[0] ?? null) === state.new);
    if (now && !old) {
      const lsns = entries.filter(([key]) => found[key]).map(([key]) => found[key][1]);
      if (lsns.length && Math.max(...lsns) - Math.min(...lsns) >= entries.length)
        complaints.push(`LSNs ${lsns} of one batch are apart`);
    } else if (!old) {
      const is = Object.fromEntries(entries.map(([key]) => [key, found[key]]));
      complaints.push(`a write in flight is there in part or wrong: ${JSON.stringify(group)} is ${JSON.stringify(is)}`);
    }
  }
  for (const [key, state] of Object.entries(model.keys)) {
    if (!open.has(key) && !same(found[key], state))
      complaints.push(`${key}: acknowledged ${JSON.stringify(state)}, found ${JSON.stringify(found[key])}`);
  }
  model.keys = found;
  model.unknown = [];
  return complaints;
}

// Paths are bytes, not text.
function readList(file) {
  const paths = [];
  const all = fs.readFileSync(file);
  for (let at = 0; at < all.length; ) {
    const end = all.indexOf(0, at);
    paths.push(all.subarray(at, end));
    at = end + 1;
  }
  return paths;
}

const [action, address, modelPath, seed, listPath] = process.argv.slice(2);
const model = JSON.parse(fs.readFileSync(modelPath, 'utf8'));
const kv = openKv(address);
let failed = false;
if (action === 'verify') {
  const complaints = await verify(kv, model);
  console.log(JSON.stringify({ keys: Object.keys(model.keys).length, complaints: complaints.slice(0, 20) }));
  failed = complaints.length > 0;
} else {
  const writer = new Writer(kv, model, action === 'churn');
  await { load, churn }[action](writer, readList(listPath), random(Number(seed)));
  console.log(`acked ${writer.acked}`);
}
kv.close();
fs.writeFileSync(modelPath, JSON.stringify(model));
process.exitCode = failed ? 1 : 0;
