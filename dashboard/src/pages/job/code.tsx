import { useState } from 'react';

import type { Schema } from '@/api/client';
import { type Kind, specFields } from '@/forms/schema';
import { toDraft, toSpec } from '@/forms/draft';
import { useT } from '@/i18n';
import { CodeBlock } from '@/ui/copy';
import { Tabs } from '@/ui/tabs';

import { asCli, asCurl, asPython } from './snippets';

const WRITERS = { curl: asCurl, cli: asCli, python: asPython };
type Form = keyof typeof WRITERS;

/** The job as commands, without fields that have their default values. */
export function AsCode({ job }: { job: Schema<'JobObject'> }) {
  const t = useT();
  const [form, setForm] = useState<Form>('curl');
  const fields = specFields(job.kind as Kind);
  const spec = { kind: job.kind, ...toSpec(fields, toDraft(fields, job.spec as Record<string, unknown>)) };
  const long = job.spec.inline_input as { field: string } | null | undefined;
  return (
    <Tabs
      label={t('job.code')}
      current={form}
      choose={setForm}
      tabs={[
        { name: 'curl', label: 'curl' },
        { name: 'cli', label: t('code.cli') },
        { name: 'python', label: 'Python' },
      ]}
    >
      <div className="stack">
        {long && <p className="notice">{t('code.long', { field: long.field, path: `/v1/jobs/${job.id}/input` })}</p>}
        <CodeBlock text={WRITERS[form](spec, window.location.origin)} label={t('job.code')} />
        <p className="small muted">{t('code.key')}</p>
      </div>
    </Tabs>
  );
}
