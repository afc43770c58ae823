// The KV service over @grpc/grpc-js, its schema read from proto/ when it runs. The packages live in
// $E2E_DIR/node, outside the source tree.

import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
const build = process.env.E2E_DIR ?? path.join(root, 'build/e2e');
const require = createRequire(path.join(build, 'node/'));

export const grpc = require('@grpc/grpc-js');
export const loader = require('@grpc/proto-loader');
export const protoDir = path.join(root, 'proto');

const proto = (file) =>
  loader.loadSync(file, {
    includeDirs: [protoDir],
    keepCase: true,
    longs: String,
    enums: String,
    defaults: true,
    oneofs: true,
  });

const definition = proto('varve/v1/kv.proto');
const errors = { ...proto('google/rpc/status.proto'), ...proto('google/rpc/error_details.proto') };
const KV = grpc.loadPackageDefinition(definition).varve.v1.KV;

export function openKv(address) {
  const client = new KV(address, grpc.credentials.createInsecure(), {
    'grpc.max_receive_message_length': -1,
    'grpc.max_send_message_length': -1,
    'grpc.enable_retries': 0,
  });
  return {
    // One unary call by name; rejects with grpc's error.
    call: (method, request, timeoutMs) =>
      new Promise((resolve, reject) => {
        client[method](request, { deadline: Date.now() + timeoutMs }, (e, response) =>
          e ? reject(e) : resolve(response),
        );
      }),
    // The same for bytes that no schema vouches for, under any name; resolves with bytes.
    raw: (fullName, bytes, timeoutMs) =>
      new Promise((resolve, reject) => {
        const same = (b) => b;
        client.makeUnaryRequest(fullName, same, same, bytes, { deadline: Date.now() + timeoutMs }, (e, response) =>
          e ? reject(e) : resolve(response),
        );
      }),
    close: () => client.close(),
  };
}

// The ErrorInfo in the details of an error: {reason, domain}, or null.
export function errorInfo(e) {
  const [bytes] = e.metadata.get('grpc-status-details-bin');
  if (!bytes) return null;
  const status = errors['google.rpc.Status'].deserialize(bytes);
  for (const any of status.details) {
    if (any.type_url === 'type.googleapis.com/google.rpc.ErrorInfo')
      return errors['google.rpc.ErrorInfo'].deserialize(any.value);
  }
  return null;
}
