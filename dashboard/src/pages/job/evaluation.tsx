import type { Schema } from '@/api/client';
import { useT } from '@/i18n';
import { Card, Facts } from '@/ui/basics';
import { formatCount, formatMetric, formatPercent } from '@/ui/format';

import { Bars, Intervals } from './charts';

type Benchmark = Schema<'BenchmarkResult'>;
type Perplexity = Schema<'PerplexityResult'>;

export function EvaluationView({ result }: { result: Benchmark | Perplexity }) {
  return 'benchmark' in result ? <BenchmarkView result={result} /> : <PerplexityView result={result} />;
}

function BenchmarkView({ result }: { result: Benchmark }) {
  const t = useT();
  const { model, compared_with: other, comparison } = result;
  const percent = (value: number | null) => formatPercent(value, 1);
  return (
    <div className="stack">
      <Card title={`${result.benchmark} · ${result.split}`}>
        <Facts
          items={[
            [model.name, formatPercent(model.total.accuracy, 2)],
            ...(other ? ([[other.name, formatPercent(other.total.accuracy, 2)]] as [string, string][]) : []),
            [t('evaluation.questions'), formatCount(model.total.questions)],
            [t('evaluation.subjects'), model.total.subjects],
            [t('evaluation.shots'), result.shots],
            [t('evaluation.fewer'), model.fewer_shots],
            [t('evaluation.cut'), model.cut],
          ]}
        />
      </Card>
      <Card title={t('evaluation.categories')}>
        <Bars
          rows={Object.entries(model.categories).map(([name, found]) => ({ name, value: found.accuracy ?? 0 }))}
          format={percent}
        />
      </Card>
      {comparison && (
        <Card title={t('evaluation.difference', { model: model.name, other: other?.name ?? '' })}>
          <div className="stack">
            <Intervals
              origin={0}
              format={percent}
              rows={[
                { name: t('evaluation.total'), ...toInterval(comparison.total) },
                ...Object.entries(comparison.categories).map(([name, found]) => ({ name, ...toInterval(found) })),
              ]}
            />
            <p className="small muted">{comparison.method}</p>
          </div>
        </Card>
      )}
    </div>
  );
}

function toInterval(found: Schema<'AccuracyDifference'>) {
  return { value: found.difference ?? null, low: found.low ?? null, high: found.high ?? null };
}

function PerplexityView({ result }: { result: Perplexity }) {
  const t = useT();
  const { model, compared_with: other, comparison } = result;
  return (
    <div className="stack">
      <Card title={t('quality.perplexity')}>
        <Facts
          items={[
            [model.name, formatMetric(model.perplexity)],
            ...(other ? ([[other.name, formatMetric(other.perplexity)]] as [string, string][]) : []),
            [t('evaluation.tokens'), formatCount(result.tokens)],
            [t('evaluation.windows'), `${result.windows} × ${result.window}`],
            ...(comparison
              ? ([
                  [t('quality.kl'), formatMetric(comparison.kl_divergence)],
                  [t('quality.top1'), formatPercent(comparison.top_1_agreement, 1)],
                ] as [string, string][])
              : []),
          ]}
        />
      </Card>
      {comparison && (
        <Card title={t('evaluation.ratio')}>
          <div className="stack">
            <Intervals
              origin={1}
              format={formatMetric}
              rows={[
                {
                  name: model.name,
                  value: comparison.ratio ?? null,
                  low: comparison.interval?.[0] ?? null,
                  high: comparison.interval?.[1] ?? null,
                },
              ]}
            />
            <p className="small muted">{comparison.method}</p>
          </div>
        </Card>
      )}
    </div>
  );
}
