import { useEffect, useRef, useState } from 'react';

import { type Ending, type Sampling, streamChat, type Turn } from './chat-stream';

export interface Chat {
  turns: Turn[];
  /** How the last answer ended; null while it is being generated, and before the first. */
  ending: Ending | null;
  error: unknown;
  busy: boolean;
}

const NEW: Chat = { turns: [], ending: null, error: null, busy: false };

/** A conversation with one model. A failed or stopped answer keeps the text generated so far. */
export function useChat(): {
  chat: Chat;
  send: (model: string, system: string, text: string, sampling: Sampling) => Promise<void>;
  stop: () => void;
  clear: () => void;
} {
  const [chat, setChat] = useState(NEW);
  const running = useRef<AbortController | null>(null);
  useEffect(() => () => running.current?.abort(), []);

  const send = async (model: string, system: string, text: string, sampling: Sampling) => {
    const abort = new AbortController();
    running.current?.abort();
    running.current = abort;
    const asked: Turn[] = [...chat.turns, { role: 'user', content: text }];
    const first: Turn[] = system ? [{ role: 'system', content: system }] : [];
    const update = (change: (old: Chat) => Chat) => {
      if (running.current === abort) setChat(change);
    };
    setChat({ turns: [...asked, { role: 'assistant', content: '' }], ending: null, error: null, busy: true });
    const messages = [...first, ...asked.filter((turn) => turn.content !== '')];
    const append = joinPerFrame((more) => update((old) => ({ ...old, turns: appendToLast(old.turns, more) })));
    try {
      const ending = await streamChat({ model, messages, ...sampling }, append.add, abort.signal);
      append.flush();
      update((old) => ({ ...old, ending, busy: false }));
    } catch (error) {
      append.flush();
      const stopped = abort.signal.aborted;
      update((old) => ({ ...old, turns: withoutEmpty(old.turns), error: stopped ? null : error, busy: false }));
    }
  };
  return {
    chat,
    send,
    stop: () => running.current?.abort(),
    clear: () => {
      running.current?.abort();
      running.current = null;
      setChat(NEW);
    },
  };
}

function appendToLast(turns: Turn[], text: string): Turn[] {
  return turns.map((turn, at) => (at === turns.length - 1 ? { ...turn, content: turn.content + text } : turn));
}

function withoutEmpty(turns: Turn[]): Turn[] {
  return turns.filter((turn) => turn.role !== 'assistant' || turn.content !== '');
}

/** Collect text until the next animation frame; a hidden tab has no frames, so it is updated when it becomes visible. */
function joinPerFrame(pass: (text: string) => void): { add: (text: string) => void; flush: () => void } {
  let text = '';
  let frame = 0;
  const flush = () => {
    cancelAnimationFrame(frame);
    frame = 0;
    const joined = text;
    text = '';
    if (joined) pass(joined);
  };
  const add = (more: string) => {
    text += more;
    frame ||= requestAnimationFrame(flush);
  };
  return { add, flush };
}
