import { useMutation, useQueryClient } from '@tanstack/react-query';
import { useRef, useState } from 'react';

import { useFiles } from '@/api/queries';
import { useT } from '@/i18n';
import { ErrorNotice, Meter } from '@/ui/basics';
import { formatBytes } from '@/ui/format';

import type { InputProps } from './field-input';
import { uploadFile } from './upload';

const PURPOSES: Record<string, string> = { input_file: 'prompts', data_file: 'evals' };

/** Choose a stored file or upload a new one. */
export function FileInput({ id, field, value, change, described, invalid }: InputProps) {
  const t = useT();
  const client = useQueryClient();
  const files = useFiles();
  const [fraction, setFraction] = useState(0);
  const abort = useRef<AbortController | null>(null);
  const upload = useMutation({
    mutationFn: (file: File) => {
      setFraction(0);
      abort.current = new AbortController();
      return uploadFile(file, PURPOSES[field.name] ?? 'fine-tune', setFraction, abort.current.signal);
    },
    onSuccess: async (stored) => {
      await client.invalidateQueries({ queryKey: ['files'] });
      change(stored.id);
    },
  });
  const chosen = value === undefined ? '' : String(value);
  const known = files.data?.some((file) => file.id === chosen);
  return (
    <div className="stack-small">
      <select
        id={id}
        value={chosen}
        aria-describedby={described}
        aria-invalid={invalid || undefined}
        onChange={(event) => change(event.target.value || undefined)}
      >
        <option value="">{t(field.required ? 'form.choose' : 'form.unset')}</option>
        {chosen !== '' && !known && <option value={chosen}>{chosen}</option>}
        {files.data?.map((file) => (
          <option key={file.id} value={file.id}>
            {file.filename} · {formatBytes(file.bytes)} · {file.id.slice(-6)}
          </option>
        ))}
      </select>
      <input
        type="file"
        aria-label={t('form.upload.for', { field: field.name })}
        disabled={upload.isPending}
        onChange={(event) => {
          const file = event.target.files?.[0];
          if (file) upload.mutate(file);
          event.target.value = '';
        }}
      />
      {upload.isPending && (
        <div className="row">
          <div className="grow">
            <Meter value={fraction} label={t('form.uploading')} />
          </div>
          <span className="small tabular">{Math.round(fraction * 100)}%</span>
          <button type="button" className="button small" onClick={() => abort.current?.abort()}>
            {t('stop')}
          </button>
        </div>
      )}
      {upload.isError && !(upload.error instanceof DOMException) && <ErrorNotice error={upload.error} />}
    </div>
  );
}
