import type { Field, Kind } from '@/forms/schema';

/** The most common fields of each kind, in the order of the form; the others are under "More options". */
const MAIN: Record<Kind, string[]> = {
  finetune: [
    'model',
    'training_file',
    'validation_file',
    'method',
    'epochs',
    'learning_rate',
    'batch_size',
    'max_length',
    'lora_rank',
    'gradient_checkpointing',
    'output_model',
  ],
  generate: ['model', 'adapter', 'prompts', 'input_file', 'max_new_tokens', 'temperature', 'top_p', 'n'],
  quantize: ['model', 'method', 'output_model', 'calibration', 'quality_report', 'quantize_head'],
  convert: ['model', 'target', 'adapter', 'gguf_type', 'output_model'],
  preview: ['model', 'training_file', 'max_length', 'examples'],
  pull: ['repository', 'revision', 'output_model'],
  serve: ['model', 'adapter', 'engine', 'batch_size', 'idle_seconds'],
  evaluate: ['model', 'benchmark', 'data_file', 'compare_with', 'shots', 'limit'],
};

/** The fields of all kinds that control where and how often a job runs. */
const RUNNING = ['priority', 'max_attempts', 'timeout_seconds', 'labels', 'resources'];

export interface Groups {
  main: Field[];
  more: Field[];
  running: Field[];
}

export function groupFields(kind: Kind, fields: Field[]): Groups {
  const named = (names: string[]) => names.flatMap((name) => fields.filter((field) => field.name === name));
  const rest = fields.filter(({ name }) => !MAIN[kind].includes(name) && !RUNNING.includes(name));
  return { main: named(MAIN[kind]), more: rest, running: named(RUNNING) };
}
