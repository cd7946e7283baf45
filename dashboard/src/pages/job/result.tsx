import type { Schema } from '@/api/client';
import { useLanguage, useT } from '@/i18n';
import { fieldLabel } from '@/i18n/fields';
import { Card, Facts } from '@/ui/basics';
import { formatBytes, formatMetric, formatNamed, formatOptional, formatPercent } from '@/ui/format';

import { PreviewView } from '../data/preview';
import { EvaluationView } from './evaluation';
import { Bars } from './charts';

type Result = NonNullable<Schema<'JobObject'>['result']>;

/** The result of a job according to its kind; unknown fields of other versions are listed unchanged. */
export function ResultView({ kind, result, maxLength }: { kind: string; result: Result; maxLength: number }) {
  const t = useT();
  if (kind === 'quantize' && 'relative_errors' in result)
    return <Quantized result={result as Schema<'QuantizeResult'>} />;
  if (kind === 'preview' && 'lengths' in result)
    return <PreviewView result={result as Schema<'PreviewResult'>} maxLength={maxLength} />;
  if (kind === 'evaluate' && 'model' in result)
    return <EvaluationView result={result as Schema<'BenchmarkResult'> | Schema<'PerplexityResult'>} />;
  return (
    <Card title={t('job.result')}>
      <PlainFacts result={result} />
    </Card>
  );
}

function isListOfNames(value: object): boolean {
  return Array.isArray(value) && value.every((each) => typeof each === 'string');
}

function PlainFacts({ result }: { result: object }) {
  const { language } = useLanguage();
  const rows = Object.entries(result).filter(
    ([name, value]) => name !== 'kind' && value !== null && (typeof value !== 'object' || isListOfNames(value)),
  );
  return (
    <Facts
      items={rows.map(([name, value]) => [
        fieldLabel(name, language),
        typeof value === 'number'
          ? name.startsWith('bytes_')
            ? formatBytes(value)
            : formatNamed(name, value)
          : Array.isArray(value)
            ? value.join(', ') || '–'
            : String(value),
      ])}
    />
  );
}

function Quantized({ result }: { result: Schema<'QuantizeResult'> }) {
  const t = useT();
  const worst = Object.entries(result.relative_errors)
    .map(([name, error]) => ({ name, value: error ?? 0 }))
    .sort((a, b) => b.value - a.value)
    .slice(0, 12);
  return (
    <div className="stack">
      <Card title={t('job.result')}>
        <Facts
          items={[
            [t('quantize.method'), result.method],
            [t('quantize.before'), formatBytes(result.bytes_before)],
            [t('quantize.after'), formatBytes(result.bytes_after)],
            [t('quantize.ratio'), formatPercent(result.bytes_after / result.bytes_before, 1)],
            [t('quantize.error'), formatMetric(result.mean_relative_error)],
          ]}
        />
      </Card>
      {result.quality && <Quality quality={result.quality} />}
      <Card title={t('quantize.worst')}>
        <Bars rows={worst} format={formatMetric} />
      </Card>
    </div>
  );
}

function Quality({ quality }: { quality: Schema<'QuantizationQuality'> }) {
  const t = useT();
  return (
    <Card title={t('quality.title')}>
      <div className="stack">
        <p className="muted small">{t('quality.text', { text: quality.text, tokens: quality.tokens })}</p>
        {quality.likelihoods_missing && <p className="notice">{quality.likelihoods_missing}</p>}
        <div className="table-scroll" tabIndex={0} role="region" aria-label={t('quality.title')}>
          <table>
            <thead>
              <tr>
                <th>{t('model')}</th>
                <th className="number">{t('size')}</th>
                <th className="number">{t('quality.perplexity')}</th>
                <th className="number">{t('quality.kl')}</th>
                <th className="number">{t('quality.top1')}</th>
              </tr>
            </thead>
            <tbody>
              {quality.models.map((model) => (
                <tr key={model.name}>
                  <td>{model.name}</td>
                  <td className="number">{formatBytes(model.weight_bytes)}</td>
                  <td className="number">{formatOptional(model.perplexity)}</td>
                  <td className="number">{formatOptional(model.kl_divergence)}</td>
                  <td className="number">
                    {formatOptional(model.top_1_agreement, (value) => formatPercent(value, 1))}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      </div>
    </Card>
  );
}
