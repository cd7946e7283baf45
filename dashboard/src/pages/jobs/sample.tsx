import { useState } from 'react';
import { Link } from 'wouter';

import type { Schema } from '@/api/client';
import { useModels } from '@/api/queries';
import { useT } from '@/i18n';
import { Empty, errorText, Skeleton, StateBadge } from '@/ui/basics';
import { CodeBlock } from '@/ui/copy';

import { chooseSampleModel, runSample, type SampleStep } from './sample-steps';

const MAKE_MODEL = [
  '.venv/bin/python -m examples.tiny_checkpoint .baichuan/models/tiny && \\',
  '  .venv/bin/baichuan models add tiny .baichuan/models/tiny',
].join('\n');

/** The content of an empty project: a button that runs the sample workflow. */
export default function SampleWorkflow({ started }: { started: () => void }) {
  const t = useT();
  const models = useModels();
  if (models.isPending) return <Skeleton lines={3} height={64} />;
  const model = chooseSampleModel(models.data ?? []);
  return (
    <Empty title={t('sample.title')} action={model ? <Run model={model} started={started} /> : <NoModel />}>
      {t('sample.text')}
    </Empty>
  );
}

function NoModel() {
  const t = useT();
  return (
    <div className="stack sample">
      <p>{t('sample.noModel')}</p>
      <CodeBlock text={MAKE_MODEL} label={t('sample.noModel')} />
      <Link href="/models" className="button">
        {t('models.register')}
      </Link>
    </div>
  );
}

function Run({ model, started }: { model: Schema<'ModelObject'>; started: () => void }) {
  const t = useT();
  const [steps, setSteps] = useState<SampleStep[] | null>(null);
  const [error, setError] = useState<unknown>(null);
  const start = () => {
    setSteps([]);
    setError(null);
    started();
    runSample(model.id, setSteps).catch((problem: unknown) => {
      setError(problem);
      setSteps(null);
    });
  };
  return (
    <div className="stack sample">
      {steps === null && (
        <div>
          <button type="button" className="button primary" onClick={start}>
            {t('sample.run', { model: model.id })}
          </button>
        </div>
      )}
      {error !== null && (
        <p className="wrong" role="alert">
          {errorText(error, t('error.unreachable.help'))}
        </p>
      )}
      <ol className="stack-small" aria-live="polite">
        {steps?.map((step) => (
          <li key={step.name} className="row">
            {step.job ? <StateBadge state={step.job.state} /> : <span className="badge">…</span>}
            {step.job ? (
              <Link href={`/jobs/${step.job.id}`}>{t(`sample.${step.name}`)}</Link>
            ) : (
              <span>{t(`sample.${step.name}`)}</span>
            )}
          </li>
        ))}
      </ol>
    </div>
  );
}
