import specs from './specs.json';

/** The parts of JSON schema that the specs use. */
export interface JsonSchema {
  type?: string;
  const?: unknown;
  enum?: unknown[];
  anyOf?: JsonSchema[];
  $ref?: string;
  items?: JsonSchema;
  properties?: Record<string, JsonSchema>;
  required?: string[];
  default?: unknown;
  description?: string;
  pattern?: string;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
  minItems?: number;
  maxItems?: number;
  maxLength?: number;
  patternProperties?: Record<string, JsonSchema>;
}

export type Kind = keyof typeof specs.kinds;
export const KINDS = Object.keys(specs.kinds).sort() as Kind[];

export type Widget =
  'choice' | 'flag' | 'number' | 'text' | 'model' | 'file' | 'lines' | 'choices' | 'json' | 'pairs' | 'group';

/** The properties of a spec's field that the form needs to render and check it. */
export interface Field {
  name: string;
  widget: Widget;
  schema: JsonSchema;
  required: boolean;
  optional: boolean; // null is allowed
  help: string;
  fields: Field[]; // fields of a group
}

const SCHEMAS = specs.schemas as unknown as Record<string, JsonSchema>;
const MODEL_FIELDS = new Set(['model', 'adapter', 'compare_with']);

function resolve(schema: JsonSchema): JsonSchema {
  const name = schema.$ref?.split('/').at(-1);
  return name ? { ...SCHEMAS[name], ...schema } : schema;
}

/** Remove null from a schema, and add the annotations of the field itself. */
function withoutNull(schema: JsonSchema): { plain: JsonSchema; optional: boolean } {
  const resolved = resolve(schema);
  if (!resolved.anyOf) return { plain: resolved, optional: false };
  const others = resolved.anyOf.filter((option) => option.type !== 'null');
  const plain = { ...resolve(others[0] ?? {}), ...resolved };
  delete plain.anyOf;
  if (resolved.description === undefined) delete plain.description;
  return { plain, optional: others.length < resolved.anyOf.length };
}

function chooseWidget(name: string, schema: JsonSchema): Widget {
  if (schema.enum) return 'choice';
  if (schema.pattern?.startsWith('^file-')) return 'file';
  if (MODEL_FIELDS.has(name)) return 'model';
  switch (schema.type) {
    case 'boolean':
      return 'flag';
    case 'integer':
    case 'number':
      return 'number';
    case 'array':
      if (schema.items && resolve(schema.items).enum) return 'choices';
      return schema.items && resolve(schema.items).type === 'string' ? 'lines' : 'json';
    case 'object':
      return schema.properties ? 'group' : 'pairs';
    default:
      return 'text';
  }
}

function readFields(schema: JsonSchema): Field[] {
  const required = new Set(schema.required);
  return Object.entries(schema.properties ?? {})
    .filter(([, property]) => property.const === undefined)
    .map(([name, property]) => {
      const { plain, optional } = withoutNull(property);
      const widget = chooseWidget(name, plain);
      return {
        name,
        widget,
        schema: plain.items ? { ...plain, items: resolve(plain.items) } : plain,
        required: required.has(name),
        optional,
        help: property.description ?? '',
        fields: widget === 'group' ? readFields(plain) : [],
      };
    });
}

/** The fields of a kind's spec, without `kind` itself. */
export function specFields(kind: Kind): Field[] {
  return readFields(SCHEMAS[specs.kinds[kind]] ?? {});
}
