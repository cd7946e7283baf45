import { useT } from '@/i18n';

import type { InputProps } from './field-input';

/** Input of labels, as rows of a key and a value. */
export function PairsInput({ value, change }: InputProps) {
  const t = useT();
  const pairs = (value ?? []) as [string, string][];
  const edit = (at: number, pair: [string, string]) => change(pairs.map((old, index) => (index === at ? pair : old)));
  return (
    <div className="stack-small">
      {pairs.map(([key, text], index) => (
        <div key={index} className="row">
          <input
            className="grow"
            aria-label={t('form.key')}
            placeholder={t('form.key')}
            value={key}
            onChange={(event) => edit(index, [event.target.value, text])}
          />
          <input
            className="grow"
            aria-label={t('form.value')}
            placeholder={t('form.value')}
            value={text}
            onChange={(event) => edit(index, [key, event.target.value])}
          />
          <button
            type="button"
            className="button small quiet"
            onClick={() => change(pairs.filter((_, other) => other !== index))}
          >
            {t('remove')}
          </button>
        </div>
      ))}
      <div>
        <button type="button" className="button small" onClick={() => change([...pairs, ['', '']])}>
          {t('form.add')}
        </button>
      </div>
    </div>
  );
}
