import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';

import { call, type Schema } from '@/api/client';
import { readAll } from '@/api/queries';
import { useT } from '@/i18n';
import { Age } from '@/ui/age';
import { Card, ErrorNotice, Skeleton } from '@/ui/basics';
import { ConfirmButton } from '@/ui/confirm';
import { CodeBlock } from '@/ui/copy';
import { Dialog } from '@/ui/dialog';

type Key = Schema<'KeyObject'>;

export function Keys({ own }: { own: Key }) {
  const t = useT();
  const client = useQueryClient();
  const [creating, setCreating] = useState(false);
  const keys = useQuery({
    queryKey: ['keys'],
    queryFn: ({ signal }) =>
      readAll<Key>((after) =>
        call('get', '/v1/keys', { query: after === undefined ? { limit: 100 } : { limit: 100, after }, signal }),
      ),
  });
  const refresh = () => void client.invalidateQueries({ queryKey: ['keys'] });
  return (
    <Card
      title={
        <span className="row-apart">
          {t('keys.title')}
          <button type="button" className="button small" onClick={() => setCreating(true)}>
            {t('keys.create')}
          </button>
        </span>
      }
    >
      {keys.isPending && <Skeleton lines={3} />}
      {keys.isError && <ErrorNotice error={keys.error} retry={() => void keys.refetch()} />}
      {keys.data && (
        <div className="table-scroll" tabIndex={0} role="region" aria-label={t('keys.title')}>
          <table>
            <thead>
              <tr>
                <th>{t('keys.name')}</th>
                <th>{t('project')}</th>
                <th>{t('keys.role')}</th>
                <th>{t('keys.hint')}</th>
                <th className="number">{t('created')}</th>
                <th>
                  <span className="visually-hidden">{t('actions')}</span>
                </th>
              </tr>
            </thead>
            <tbody>
              {keys.data.map((key) => (
                <tr key={key.id}>
                  <td>{key.name}</td>
                  <td>{key.project}</td>
                  <td>{t(key.role === 'admin' ? 'keys.admin' : 'keys.member')}</td>
                  <td className="mono">{key.hint}</td>
                  <td className="number">
                    <Age at={key.created_at} />
                  </td>
                  <td>
                    <span className="row end">
                      <KeyAction key_={key} own={own} refresh={refresh} />
                    </span>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {creating && <CreateDialog project={own.project} close={() => setCreating(false)} refresh={refresh} />}
    </Card>
  );
}

function KeyAction({ key_: key, own, refresh }: { key_: Key; own: Key; refresh: () => void }) {
  const t = useT();
  if (key.revoked_at !== null) return <span className="badge">{t('keys.revoked')}</span>;
  if (key.id === own.id) return <span className="badge plain">{t('keys.own')}</span>;
  return (
    <ConfirmButton
      small
      danger
      label={t('keys.revoke')}
      title={t('keys.revoke.title', { name: key.name })}
      action={() => call('delete', '/v1/keys/{key_id}', { path: { key_id: key.id } })}
      done={refresh}
    >
      {t('keys.revoke.text')}
    </ConfirmButton>
  );
}

function CreateDialog({ project, close, refresh }: { project: string; close: () => void; refresh: () => void }) {
  const t = useT();
  const [values, setValues] = useState({ name: '', project, role: 'member' as 'member' | 'admin' });
  const create = useMutation({ mutationFn: () => call('post', '/v1/keys', { body: values }), onSuccess: refresh });
  if (create.isSuccess)
    return (
      <Dialog title={t('keys.created')} close={close}>
        <p>{t('keys.secret')}</p>
        <CodeBlock text={create.data.secret ?? ''} wrap label={t('keys.created')} />
        <div className="dialog-end">
          <button type="button" className="button primary" onClick={close}>
            {t('close')}
          </button>
        </div>
      </Dialog>
    );
  return (
    <Dialog title={t('keys.create')} close={close}>
      <form
        className="stack"
        onSubmit={(event) => {
          event.preventDefault();
          create.mutate();
        }}
      >
        {(['name', 'project'] as const).map((name) => (
          <div key={name} className="field">
            <label htmlFor={`key-${name}`}>{t(name === 'name' ? 'keys.name' : 'project')}</label>
            <input
              id={`key-${name}`}
              required
              value={values[name]}
              onChange={(event) => setValues({ ...values, [name]: event.target.value })}
            />
          </div>
        ))}
        <div className="field">
          <label htmlFor="key-role">{t('keys.role')}</label>
          <select
            id="key-role"
            value={values.role}
            onChange={(event) => setValues({ ...values, role: event.target.value as 'member' | 'admin' })}
          >
            <option value="member">{t('keys.member')}</option>
            <option value="admin">{t('keys.admin')}</option>
          </select>
        </div>
        {create.isError && <ErrorNotice error={create.error} />}
        <div className="dialog-end">
          <button type="button" className="button" onClick={close}>
            {t('back')}
          </button>
          <button type="submit" className="button primary" disabled={create.isPending}>
            {t('keys.create')}
          </button>
        </div>
      </form>
    </Dialog>
  );
}
