import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { Feed, type FeedEvent, type FeedState, parseBlocks } from '@/stream/feed';
import { Hub, type HubMessage } from '@/stream/hub';
import { throttle } from '@/stream/throttle';

/** A connection of the service whose events a test sends. */
class Connection {
  private controller!: ReadableStreamDefaultController<Uint8Array>;
  readonly response: Response;

  constructor(readonly url: string) {
    const body = new ReadableStream<Uint8Array>({ start: (controller) => void (this.controller = controller) });
    this.response = new Response(body, { status: 200 });
  }

  send(text: string): void {
    this.controller.enqueue(new TextEncoder().encode(text));
  }

  close(): void {
    this.controller.close();
  }

  abort(): void {
    this.controller.error(new DOMException('aborted', 'AbortError'));
  }
}

const event = (id: number) => `id: ${id}\nevent: state\ndata: {"id":"${id}","type":"state","job_id":"j","data":{}}\n\n`;

let connections: Connection[];
let answers: (Response | null)[];

beforeEach(() => {
  vi.useFakeTimers();
  connections = [];
  answers = [];
  vi.stubGlobal('fetch', (url: string, init: RequestInit) => {
    const answer = answers.shift();
    if (answer) return Promise.resolve(answer);
    const connection = new Connection(url);
    connections.push(connection);
    init.signal?.addEventListener('abort', () => connection.abort());
    return Promise.resolve(connection.response);
  });
});

afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

function listen() {
  const seen = { ids: [] as string[], resets: 0, states: [] as FeedState[] };
  const feed = new Feed('/v1/events', {
    events: (events: FeedEvent[]) => seen.ids.push(...events.map(({ id }) => id)),
    reset: () => (seen.resets += 1),
    state: (state) => seen.states.push(state),
  });
  return { feed, seen };
}

const settle = () => vi.advanceTimersByTimeAsync(1);

describe('Feed', () => {
  it('delivers events that arrive in pieces, each once', async () => {
    const { feed, seen } = listen();
    feed.start();
    await settle();
    connections[0]?.send(`id: 4\nevent: ready\ndata: {"position": 4}\n\n${event(5)}${event(6).slice(0, 20)}`);
    await settle();
    connections[0]?.send(event(6).slice(20) + ': still here\n\n' + event(7));
    await settle();
    expect(seen).toEqual({ ids: ['5', '6', '7'], resets: 1, states: ['connecting', 'live'] });
    feed.stop();
  });

  it('continues behind the last event after 100 lost connections', async () => {
    const { feed, seen } = listen();
    feed.start();
    await settle();
    connections[0]?.send('id: 0\nevent: ready\ndata: {}\n\n');
    for (let id = 1; id <= 100; id += 1) {
      connections.at(-1)?.send(event(id));
      await settle();
      connections.at(-1)?.close();
      await vi.advanceTimersByTimeAsync(600);
      expect(connections.at(-1)?.url).toBe(`/v1/events?after=${id}`);
    }
    expect(seen.ids).toEqual(Array.from({ length: 100 }, (_, at) => String(at + 1)));
    expect(seen.resets).toBe(1);
    feed.stop();
  });

  it('waits longer after each failure, and reports that the session has ended', async () => {
    const { feed, seen } = listen();
    answers = [new Response('', { status: 503 }), new Response('', { status: 503 }), new Response('', { status: 401 })];
    feed.start();
    await vi.advanceTimersByTimeAsync(500 + 1000 + 10);
    expect(seen.states).toEqual(['connecting', 'lost', 'connecting', 'lost', 'connecting', 'signed-out']);
  });

  it('reconnects if the service is silent for too long', async () => {
    const { feed } = listen();
    feed.start();
    await settle();
    connections[0]?.send(event(1));
    await vi.advanceTimersByTimeAsync(44_000);
    expect(connections).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(2000);
    expect(connections.map(({ url }) => url)).toEqual(['/v1/events', '/v1/events?after=1']);
    feed.stop();
  });
});

describe('parseBlocks', () => {
  it('reads ids, types and data, and ignores comments', () => {
    expect(parseBlocks(': hello\n\nid: 3\nevent: log\ndata: {}')).toEqual([
      { id: null, event: 'message', data: '' },
      { id: '3', event: 'log', data: '{}' },
    ]);
  });
});

describe('Hub', () => {
  const tab = () => {
    const messages: HubMessage[] = [];
    return { messages, postMessage: (message: HubMessage) => void messages.push(message) };
  };

  it('shares one connection and has none while all tabs are hidden', async () => {
    const hub = new Hub('/v1/events');
    const tabs = Array.from({ length: 8 }, tab);
    for (const each of tabs) hub.receive(each, 'visible');
    await settle();
    expect(connections).toHaveLength(1);
    connections[0]?.send('id: 1\nevent: ready\ndata: {}\n\n' + event(2));
    await settle();
    for (const each of tabs) expect(each.messages.at(-1)).toMatchObject({ type: 'events', events: [{ id: '2' }] });
    for (const each of tabs) hub.receive(each, 'hidden');
    await vi.advanceTimersByTimeAsync(120_000);
    expect(connections).toHaveLength(1);
    hub.receive(tabs[0] ?? tab(), 'visible');
    await settle();
    expect(connections).toHaveLength(2);
    expect(connections[1]?.url).toBe('/v1/events');
  });

  it('tells a tab that returns to read everything again', async () => {
    const hub = new Hub('/v1/events');
    const [first, second] = [tab(), tab()];
    hub.receive(first, 'visible');
    await settle();
    hub.receive(second, 'visible');
    expect(second.messages).toContainEqual({ type: 'reset' });
  });
});

describe('throttle', () => {
  it('runs at once, and once more for all calls in between', () => {
    const run = vi.fn();
    const throttled = throttle(run, 100);
    throttled();
    throttled();
    throttled();
    expect(run).toHaveBeenCalledTimes(1);
    vi.advanceTimersByTime(100);
    expect(run).toHaveBeenCalledTimes(2);
    vi.advanceTimersByTime(500);
    expect(run).toHaveBeenCalledTimes(2);
  });
});
