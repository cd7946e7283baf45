// Fail if the built pages are larger than their limits; prints the gzipped size of each script.
import { readdirSync, readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';

const FIRST_PAGE_KB = 200;
const FURTHER_PAGE_KB = 80;

const dist = new URL('../dist/', import.meta.url);
const manifest = readFileSync(new URL('index.html', dist), 'utf8');
const initial = new Set([...manifest.matchAll(/assets\/([\w.-]+\.js)/g)].map((found) => found[1]));
const sizes = readdirSync(new URL('assets/', dist))
  .filter((name) => name.endsWith('.js'))
  .map((name) => ({ name, kb: gzipSync(readFileSync(new URL(`assets/${name}`, dist)), { level: 9 }).length / 1000 }))
  .sort((a, b) => b.kb - a.kb);

const first = sizes.filter(({ name }) => initial.has(name)).reduce((sum, { kb }) => sum + kb, 0);
const later = sizes.filter(({ name }) => !initial.has(name));
console.log(`first page ${first.toFixed(1)} kB gzipped (limit ${FIRST_PAGE_KB})`);
for (const { name, kb } of later) console.log(`  ${kb.toFixed(1).padStart(6)} kB ${name}`);
const large = later.filter(({ kb }) => kb > FURTHER_PAGE_KB);
if (first > FIRST_PAGE_KB || large.length > 0) {
  console.error(
    `too large: ${first > FIRST_PAGE_KB ? 'the first page ' : ''}${large.map(({ name }) => name).join(' ')}`,
  );
  process.exit(1);
}
