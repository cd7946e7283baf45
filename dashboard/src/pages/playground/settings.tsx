import { useT } from '@/i18n';

import type { Sampling } from './chat-stream';

interface Props {
  sampling: Sampling;
  change: (sampling: Sampling) => void;
  system: string;
  setSystem: (system: string) => void;
}

/** The system prompt and the sampling settings; empty fields use the model's own settings. */
export function Settings({ sampling, change, system, setSystem }: Props) {
  const t = useT();
  const number = (name: keyof Sampling, label: string, limits: { min: number; max?: number; step?: number }) => (
    <div className="field">
      <label htmlFor={`play-${name}`}>{label}</label>
      <input
        id={`play-${name}`}
        type="number"
        {...limits}
        placeholder={t('form.unset')}
        value={sampling[name] ?? ''}
        onChange={(event) => {
          const value = event.target.value === '' ? null : event.target.valueAsNumber;
          const required = name === 'seed' || name === 'max_tokens';
          if (value === null ? !required : Number.isFinite(value)) change({ ...sampling, [name]: value });
        }}
      />
    </div>
  );
  return (
    <details className="card">
      <summary>{t('play.settings')}</summary>
      <div className="stack">
        <div className="field">
          <label htmlFor="play-system">{t('play.system')}</label>
          <textarea id="play-system" value={system} onChange={(event) => setSystem(event.target.value)} />
        </div>
        <div className="fields">
          {number('temperature', t('play.temperature'), { min: 0, max: 2, step: 0.1 })}
          {number('top_p', 'top_p', { min: 0, max: 1, step: 0.05 })}
          {number('max_tokens', t('play.maxTokens'), { min: 1 })}
          {number('seed', t('play.seed'), { min: 0 })}
        </div>
      </div>
    </details>
  );
}
