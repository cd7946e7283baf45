import { Link } from 'wouter';

import type { Schema } from '@/api/client';
import { useT } from '@/i18n';

import { Curves } from './curves';

/** The curves of one job. */
export default function CurvesPart({ job }: { job: Schema<'JobObject'> }) {
  const t = useT();
  return (
    <div className="stack">
      <div>
        <Link href={`/curves?runs=${job.id}`}>{t('curves.compare')}</Link>
      </div>
      <Curves ids={[job.id]} />
    </div>
  );
}
