import type { Schema } from '@/api/client';
import { useT } from '@/i18n';
import { Card, Facts } from '@/ui/basics';
import { formatCount, formatPercent } from '@/ui/format';

type Result = Schema<'PreviewResult'>;

/** The preview of a data set: counts, lengths, and the first examples as tokens. */
export function PreviewView({ result, maxLength }: { result: Result; maxLength: number }) {
  const t = useT();
  return (
    <div className="stack">
      <Card title={t('data.summary')}>
        <div className="stack">
          <Facts
            items={[
              [t('data.count'), formatCount(result.count)],
              [t('data.truncated'), formatCount(result.truncated_examples)],
              [t('data.dropped'), formatCount(result.dropped_examples)],
              [t('data.tokens'), formatCount(result.tokens)],
              [t('data.trained'), formatPercent(result.tokens === 0 ? 0 : result.trained_tokens / result.tokens, 1)],
              [t('data.format'), result.data_format],
              [t('data.chat'), result.chat_format ?? '–'],
            ]}
          />
          {!result.complete && <p className="notice">{t('data.partial')}</p>}
        </div>
      </Card>
      <Card title={t('data.lengths')}>
        <Histogram lengths={result.lengths} maxLength={maxLength} />
      </Card>
      <Card title={t('data.examples')}>
        <div className="stack">
          <div className="legend">
            <span>
              <span className="token trained">{t('data.legend.trained')}</span>
            </span>
            <span>
              <span className="token">{t('data.legend.context')}</span>
            </span>
          </div>
          {result.examples.map((example, index) => (
            <Example key={index} example={example} number={index + 1} />
          ))}
        </div>
      </Card>
    </div>
  );
}

function Histogram({ lengths, maxLength }: { lengths: Result['lengths']; maxLength: number }) {
  const t = useT();
  const max = Math.max(1, ...lengths.map((bucket) => bucket.examples));
  const range = (bucket: Result['lengths'][number]) =>
    bucket.longest === null ? `≥ ${bucket.shortest}` : `${bucket.shortest}–${bucket.longest}`;
  return (
    <ul className="bars">
      {lengths.map((bucket) => (
        <li key={bucket.shortest}>
          <span className="tabular">
            {range(bucket)}{' '}
            {bucket.shortest > maxLength && (
              <span className="badge" data-tone="warn">
                {t('data.cut')}
              </span>
            )}
          </span>
          <span className="meter">
            <span style={{ width: `${(100 * bucket.examples) / max}%` }} />
          </span>
          <span className="number">{formatCount(bucket.examples)}</span>
        </li>
      ))}
    </ul>
  );
}

function Example({ example, number }: { example: Result['examples'][number]; number: number }) {
  const t = useT();
  const trained = example.tokens.filter((token) => token.trained).length;
  return (
    <div className="stack-small">
      <h3>{t('data.example', { number, length: formatCount(example.length), trained: formatCount(trained) })}</h3>
      <p className="tokens">
        {example.tokens.map((token, index) => (
          <span key={index} className={token.trained ? 'token trained' : 'token'} title={String(token.id)}>
            {token.piece}
          </span>
        ))}
        {example.length > example.tokens.length && <span className="muted"> …</span>}
      </p>
    </div>
  );
}
