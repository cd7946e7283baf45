export interface Change {
  field: string;
  before: unknown;
  after: unknown;
}

/** Find the fields that differ between two specs; names of nested fields have dots. */
export function diffSpecs(before: object, after: object, prefix = ''): Change[] {
  const [old, current] = [before as Record<string, unknown>, after as Record<string, unknown>];
  const names = [...new Set([...Object.keys(old), ...Object.keys(current)])].sort();
  return names.flatMap((name): Change[] => {
    const [left, right] = [old[name], current[name]];
    if (JSON.stringify(left ?? null) === JSON.stringify(right ?? null)) return [];
    if (isPlain(left) && isPlain(right)) return diffSpecs(left, right, `${prefix}${name}.`);
    return [{ field: prefix + name, before: left, after: right }];
  });
}

function isPlain(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export function shownValue(value: unknown): string {
  if (value === undefined || value === null) return '–';
  const text = typeof value === 'string' ? value : JSON.stringify(value);
  return text.length > 300 ? `${text.slice(0, 300)}…` : text;
}
