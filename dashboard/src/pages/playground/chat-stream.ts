import { ApiError, request, toProblem } from '@/api/client';
import { parseBlocks } from '@/stream/feed';

export interface Turn {
  role: 'system' | 'user' | 'assistant';
  content: string;
}

export interface Sampling {
  temperature: number | null;
  top_p: number | null;
  max_tokens: number;
  seed: number;
}

export interface ChatRequest extends Sampling {
  model: string;
  messages: Turn[];
}

export interface Ending {
  reason: string;
  tokens: number;
}

interface Chunk {
  choices?: { delta?: { content?: string | null }; finish_reason?: string | null }[];
  usage?: { completion_tokens: number } | null;
  error?: { message: string };
}

/** Send a chat, report its text as it is generated, and return how it ended. */
export async function streamChat(
  { model, messages, temperature, top_p, max_tokens, seed }: ChatRequest,
  onText: (text: string) => void,
  signal: AbortSignal,
): Promise<Ending> {
  const chosen = Object.entries({ temperature, top_p }).filter(([, value]) => value !== null);
  const body = { model, messages, max_tokens, seed, ...Object.fromEntries(chosen) };
  const response = await request('/v1/chat/completions', {
    method: 'POST',
    headers: { Accept: 'text/event-stream', 'Content-Type': 'application/json' },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  if (response.body === null) throw new Error('the answer has no body');
  const ending: Ending = { reason: '', tokens: 0 };
  for await (const data of readData(response.body)) {
    if (data === '[DONE]') return ending;
    const chunk = JSON.parse(data) as Chunk;
    if (chunk.error) throw new ApiError(toProblem(502, chunk.error.message, ''));
    if (chunk.usage) ending.tokens = chunk.usage.completion_tokens;
    const [choice] = chunk.choices ?? [];
    if (choice?.delta?.content) onText(choice.delta.content);
    if (choice?.finish_reason) ending.reason = choice.finish_reason;
  }
  throw new ApiError(toProblem(502, 'the answer was cut off', ''));
}

/** Yield the data of all events of a stream; comments are skipped. */
async function* readData(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let text = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += decoder.decode(value, { stream: true });
    const end = text.lastIndexOf('\n\n');
    if (end === -1) continue;
    for (const { data } of parseBlocks(text.slice(0, end))) if (data !== '') yield data;
    text = text.slice(end + 2);
  }
}
