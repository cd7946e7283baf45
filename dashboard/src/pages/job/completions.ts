import { request } from '@/api/client';

import { artifactAddress } from './files';

const CHUNK_BYTES = 512 * 1024;

export interface Completion {
  index: number;
  sample: number;
  messages?: { role: string; content: string }[];
  prompt?: string;
  completion: string;
  finish_reason: string;
  completion_tokens: number;
}

export interface CompletionPage {
  items: Completion[];
  next: number | null; // byte at which the next page starts
}

/** Read the complete lines that begin in a chunk of completions.jsonl. */
export async function readCompletions(job: string, start: number, signal: AbortSignal): Promise<CompletionPage> {
  for (let size = CHUNK_BYTES; ; size *= 2) {
    const response = await request(artifactAddress(job, 'completions.jsonl'), {
      headers: { Range: `bytes=${start}-${start + size - 1}` },
      signal,
    });
    const bytes = new Uint8Array(await response.arrayBuffer());
    const total = Number(response.headers.get('Content-Range')?.split('/').at(-1) ?? start + bytes.length);
    const end = start + bytes.length >= total ? bytes.length : bytes.lastIndexOf(10) + 1;
    if (end === 0) continue; // a line longer than the chunk
    const items = parseLines(new TextDecoder().decode(bytes.subarray(0, end)));
    return { items, next: start + end >= total ? null : start + end };
  }
}

export function parseLines(text: string): Completion[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Completion);
}
