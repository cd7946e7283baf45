type Spec = Record<string, unknown>;

const quoteShell = (text: string): string =>
  /^[\w./:=@%+,-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;

export function asCurl(spec: Spec, origin: string): string {
  return [
    'curl -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" \\',
    `     ${origin}/v1/jobs \\`,
    `     -d ${quoteShell(JSON.stringify(spec))}`,
  ].join('\n');
}

/** The command `baichuan submit KIND`, with scalar fields as options and the others as JSON with --set. */
export function asCli(spec: Spec, origin: string): string {
  const { kind, ...fields } = spec;
  const options = Object.entries(fields).map(([name, value]) => {
    const flag = name.replaceAll('_', '-');
    if (typeof value === 'boolean') return value ? `--${flag}` : `--no-${flag}`;
    if (typeof value === 'object') return `--set ${quoteShell(`${name}=${JSON.stringify(value)}`)}`;
    return `--${flag} ${quoteShell(String(value))}`;
  });
  return [`baichuan submit ${String(kind)} --url ${origin} --key "$KEY"`, ...options].join(' \\\n  ');
}

function toPython(value: unknown): string {
  if (value === true) return 'True';
  if (value === false) return 'False';
  if (value === null) return 'None';
  if (Array.isArray(value)) return `[${value.map(toPython).join(', ')}]`;
  if (typeof value === 'object') {
    const items = Object.entries(value as Spec).map(([name, each]) => `${JSON.stringify(name)}: ${toPython(each)}`);
    return `{${items.join(', ')}}`;
  }
  return JSON.stringify(value);
}

export function asPython(spec: Spec, origin: string): string {
  const fields = Object.entries(spec).map(([name, value]) => `    ${JSON.stringify(name)}: ${toPython(value)},`);
  return [
    'import os',
    'import httpx',
    '',
    'spec = {',
    ...fields,
    '}',
    `job = httpx.post("${origin}/v1/jobs", json=spec, headers={"Authorization": f"Bearer {os.environ['KEY']}"})`,
    'job.raise_for_status()',
    'print(job.json()["id"])',
  ].join('\n');
}
