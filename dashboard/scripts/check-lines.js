// Fail if the dashboard exceeds its limits: lines of our own TypeScript, and packages that the browser loads.
import { readdirSync, readFileSync } from 'node:fs';

const MAX_LINES = 12_000;
const MAX_PACKAGES = 10;

const root = new URL('../', import.meta.url);
const files = ['src', 'tests']
  .flatMap((folder) => readdirSync(new URL(folder, root), { recursive: true, withFileTypes: true }))
  .filter((entry) => entry.isFile() && /\.tsx?$/.test(entry.name) && entry.name !== 'schema.d.ts')
  .map((entry) => `${entry.parentPath}/${entry.name}`);
const lines = files.reduce((sum, file) => sum + readFileSync(file, 'utf8').split('\n').length - 1, 0);
const packages = Object.keys(JSON.parse(readFileSync(new URL('package.json', root), 'utf8')).dependencies);
console.log(`${lines} lines of TypeScript (limit ${MAX_LINES}), ${packages.length} packages (limit ${MAX_PACKAGES})`);
if (lines > MAX_LINES || packages.length > MAX_PACKAGES) process.exit(1);
