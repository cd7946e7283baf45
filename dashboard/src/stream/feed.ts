/** The event stream of a project, which reconnects and resumes after the last event. */

export interface FeedEvent {
  id: string;
  type: string;
  job_id: string | null;
  data: Record<string, unknown>;
}

export type FeedState = 'connecting' | 'live' | 'lost' | 'signed-out';

export interface FeedListener {
  /** Receives events in order, each exactly once. */
  events: (events: FeedEvent[]) => void;
  /** Called if events may have been missed, so that all data must be reloaded. */
  reset: () => void;
  state: (state: FeedState) => void;
}

const FIRST_RETRY_MS = 500;
const MAX_RETRY_MS = 8000;
const MAX_SILENCE_MS = 45_000; // the service sends a comment every 15 s

export class Feed {
  private abort: AbortController | null = null;
  private last: string | null = null;
  private failures = 0;
  private retry: ReturnType<typeof setTimeout> | undefined;
  private watchdog: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly url: string,
    private readonly listener: FeedListener,
  ) {}

  get open(): boolean {
    return this.abort !== null;
  }

  start(): void {
    if (this.abort === null) void this.run(new AbortController());
  }

  /** Close the connection. After the next start, there is a reset, and then new events only. */
  stop(): void {
    clearTimeout(this.retry);
    clearTimeout(this.watchdog);
    this.abort?.abort();
    this.abort = null;
    this.last = null;
    this.failures = 0;
  }

  private async run(abort: AbortController): Promise<void> {
    this.abort = abort;
    this.listener.state('connecting');
    let connection: AbortController | null = null;
    try {
      connection = new AbortController();
      abort.signal.addEventListener('abort', () => connection?.abort());
      const response = await this.connect(connection);
      if (response.status === 401) {
        this.listener.state('signed-out');
        return;
      }
      if (!response.ok || response.body === null) throw new Error(`status ${response.status}`);
      this.failures = 0;
      this.listener.state('live');
      await this.read(response.body, connection);
    } catch {
      // The next connection continues after the last event, whatever the error was.
    } finally {
      clearTimeout(this.watchdog);
    }
    if (!abort.signal.aborted) this.reconnect(abort);
  }

  private connect(connection: AbortController): Promise<Response> {
    this.watch(connection);
    const url = this.last === null ? this.url : `${this.url}?after=${this.last}`;
    const headers = { Accept: 'text/event-stream' };
    return fetch(url, { headers, credentials: 'same-origin', cache: 'no-store', signal: connection.signal });
  }

  private watch(connection: AbortController): void {
    clearTimeout(this.watchdog);
    this.watchdog = setTimeout(() => connection.abort(), MAX_SILENCE_MS);
  }

  private async read(body: ReadableStream<Uint8Array>, connection: AbortController): Promise<void> {
    const reader = body.getReader();
    const decoder = new TextDecoder();
    let text = '';
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      this.watch(connection);
      text += decoder.decode(value, { stream: true });
      const end = text.lastIndexOf('\n\n');
      if (end === -1) continue;
      this.deliver(text.slice(0, end));
      text = text.slice(end + 2);
    }
  }

  private deliver(text: string): void {
    let events: FeedEvent[] = [];
    for (const block of parseBlocks(text)) {
      if (block.id !== null) this.last = block.id;
      // "ready" starts a new stream: data that is loaded after it, together with the events that follow, is complete.
      if (block.event === 'reset' || block.event === 'ready') {
        events = [];
        this.listener.reset();
      } else if (block.data !== '') {
        events.push(JSON.parse(block.data) as FeedEvent);
      }
    }
    if (events.length > 0) this.listener.events(events);
  }

  private reconnect(abort: AbortController): void {
    this.listener.state('lost');
    const wait = Math.min(MAX_RETRY_MS, FIRST_RETRY_MS * 2 ** this.failures);
    this.failures += 1;
    this.retry = setTimeout(() => void this.run(abort), wait);
  }
}

interface Block {
  id: string | null;
  event: string;
  data: string;
}

/** Parse a text that ends after a complete event. */
export function parseBlocks(text: string): Block[] {
  return text.split('\n\n').map((part) => {
    const block: Block = { id: null, event: 'message', data: '' };
    for (const line of part.split('\n')) {
      const colon = line.indexOf(':');
      const value = line.slice(colon + 1).trimStart();
      if (line.startsWith('id:')) block.id = value;
      else if (line.startsWith('event:')) block.event = value;
      else if (line.startsWith('data:')) block.data += value;
    }
    return block;
  });
}
