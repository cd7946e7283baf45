// Write the JSON schemas of the job specs, from which the submit form is rendered, to src/forms/specs.json.
import { readFileSync, writeFileSync } from 'node:fs';

const read = (path) => readFileSync(new URL(path, import.meta.url), 'utf8');
const document = JSON.parse(read('../../docs/openapi.json'));
const schemas = document.components.schemas;
const body = document.paths['/v1/jobs'].post.requestBody.content['application/json'].schema;
const kinds = Object.fromEntries(
  Object.entries(body.discriminator.mapping).map(([kind, reference]) => [kind, reference.split('/').at(-1)]),
);

const used = {};
function collect(name) {
  if (name in used) return;
  used[name] = schemas[name];
  for (const [, found] of JSON.stringify(schemas[name]).matchAll(/"#\/components\/schemas\/(\w+)"/g)) collect(found);
}
Object.values(kinds).forEach(collect);

const text = JSON.stringify({ kinds, schemas: used }, null, 1) + '\n';
const target = new URL('../src/forms/specs.json', import.meta.url);
if (process.argv.includes('--check')) {
  if (read('../src/forms/specs.json') !== text) {
    console.error('src/forms/specs.json differs from docs/openapi.json; run `npm run types`');
    process.exit(1);
  }
} else {
  writeFileSync(target, text);
}
