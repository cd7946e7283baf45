/** Find the fields in which specs differ, with the value in each spec. */
export function differingFields(specs: Record<string, unknown>[]): { field: string; values: unknown[] }[] {
  const names = [...new Set(specs.flatMap(Object.keys))].sort();
  return names.flatMap((field) => {
    const values = specs.map((spec) => spec[field]);
    const differs = new Set(values.map((value) => JSON.stringify(value ?? null))).size > 1;
    return differs ? [{ field, values }] : [];
  });
}
