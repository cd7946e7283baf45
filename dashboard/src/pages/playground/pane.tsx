import { useId } from 'react';

import { useModels } from '@/api/queries';
import { useT } from '@/i18n';
import { Empty, ErrorNotice } from '@/ui/basics';
import { formatCount } from '@/ui/format';

import type { Turn } from './chat-stream';
import type { Chat } from './use-chat';

/** The conversation with one model. */
export function Pane({ model, choose, chat }: { model: string; choose: (model: string) => void; chat: Chat }) {
  const t = useT();
  return (
    <section className="card stack" aria-label={model || t('play.model')}>
      <ModelChoice model={model} choose={choose} />
      <div className="stack" role="log" aria-busy={chat.busy}>
        {chat.turns.length === 0 && <Empty title={t('play.empty')}>{t('play.empty.text')}</Empty>}
        {chat.turns.map((turn, at) => (
          <TurnView key={at} turn={turn} writing={chat.busy && at === chat.turns.length - 1} />
        ))}
      </div>
      {chat.ending && (
        <span className="small muted tabular">
          {t('play.ending', { tokens: formatCount(chat.ending.tokens), reason: chat.ending.reason })}
        </span>
      )}
      {chat.error !== null && <ErrorNotice error={chat.error} />}
    </section>
  );
}

function ModelChoice({ model, choose }: { model: string; choose: (model: string) => void }) {
  const t = useT();
  const id = useId();
  const models = useModels();
  return (
    <div className="field">
      <label htmlFor={id}>{t('model')}</label>
      <input
        id={id}
        className="mono"
        list={`${id}-models`}
        value={model}
        autoComplete="off"
        spellCheck={false}
        onChange={(event) => choose(event.target.value.trim())}
      />
      <datalist id={`${id}-models`}>
        {models.data?.map((each) => (
          <option key={each.id} value={each.id}>
            {each.kind}
          </option>
        ))}
      </datalist>
    </div>
  );
}

function TurnView({ turn, writing }: { turn: Turn; writing: boolean }) {
  const t = useT();
  return (
    <div className={turn.role === 'assistant' ? 'turn answer' : 'turn'}>
      <span className="small muted">{t(turn.role === 'assistant' ? 'play.assistant' : 'play.user')}</span>
      <p>
        {turn.content}
        {writing && <span className="writing" role="img" aria-label={t('play.writing')} />}
      </p>
    </div>
  );
}
