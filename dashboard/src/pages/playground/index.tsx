import { useState } from 'react';

import { useT } from '@/i18n';
import { PageHead } from '@/ui/basics';
import { useSearchState } from '@/ui/search-state';

import type { Sampling } from './chat-stream';
import { Pane } from './pane';
import { Settings } from './settings';
import { useChat } from './use-chat';

const DEFAULTS: Sampling = { temperature: null, top_p: null, max_tokens: 512, seed: 0 };

/** A chat with one model, or with two models side by side with the same seed. */
export default function PlaygroundPage() {
  const t = useT();
  const [search, change] = useSearchState();
  const [sampling, setSampling] = useState(DEFAULTS);
  const [system, setSystem] = useState('');
  const [text, setText] = useState('');
  const left = useChat();
  const right = useChat();
  const model = search.get('model') ?? '';
  const both = search.has('two');
  const other = search.get('with') ?? '';
  const busy = left.chat.busy || right.chat.busy;
  const ready = text.trim() !== '' && model !== '' && (!both || other !== '') && !busy;
  const send = () => {
    if (!ready) return;
    void left.send(model, system, text, sampling);
    if (both) void right.send(other, system, text, sampling);
    setText('');
  };
  return (
    <>
      <PageHead title={t('nav.playground')} note={t('play.note')}>
        <button
          type="button"
          className="button"
          onClick={() => {
            right.clear();
            change({ two: both ? null : '1', with: both ? null : model });
          }}
        >
          {t(both ? 'play.one' : 'play.two')}
        </button>
        <button
          type="button"
          className="button"
          onClick={() => {
            left.clear();
            right.clear();
          }}
        >
          {t('play.clear')}
        </button>
      </PageHead>
      <div className="stack">
        <Settings sampling={sampling} change={setSampling} system={system} setSystem={setSystem} />
        <div className="panes">
          <Pane model={model} choose={(id) => change({ model: id })} chat={left.chat} />
          {both && <Pane model={other} choose={(id) => change({ with: id })} chat={right.chat} />}
        </div>
        <form
          className="card composer"
          onSubmit={(event) => {
            event.preventDefault();
            send();
          }}
        >
          <textarea
            aria-label={t('play.message')}
            placeholder={t('play.message')}
            value={text}
            onChange={(event) => setText(event.target.value)}
            onKeyDown={(event) => {
              if (event.key !== 'Enter' || event.shiftKey || event.nativeEvent.isComposing) return;
              event.preventDefault();
              send();
            }}
          />
          {busy ? (
            <button
              type="button"
              className="button"
              onClick={() => {
                left.stop();
                right.stop();
              }}
            >
              {t('stop')}
            </button>
          ) : (
            <button type="submit" className="button primary" disabled={!ready}>
              {t('play.send')}
            </button>
          )}
        </form>
      </div>
    </>
  );
}
