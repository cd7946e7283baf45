import { useMutation, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';

import { call } from '@/api/client';
import { useT } from '@/i18n';
import { ErrorNotice } from '@/ui/basics';
import { Dialog } from '@/ui/dialog';

export function RegisterDialog({ close }: { close: () => void }) {
  const t = useT();
  const client = useQueryClient();
  const [id, setId] = useState('');
  const [path, setPath] = useState('');
  const register = useMutation({
    mutationFn: () => call('post', '/v1/models', { body: { id, path } }),
    onSuccess: () => {
      void client.invalidateQueries({ queryKey: ['models'] });
      close();
    },
  });
  return (
    <Dialog title={t('models.register')} close={close}>
      <form
        className="stack"
        onSubmit={(event) => {
          event.preventDefault();
          register.mutate();
        }}
      >
        <div className="field">
          <label htmlFor="model-id">{t('models.id')}</label>
          <input id="model-id" required value={id} onChange={(event) => setId(event.target.value.trim())} />
        </div>
        <div className="field">
          <label htmlFor="model-path">{t('models.path')}</label>
          <input
            id="model-path"
            className="mono"
            required
            placeholder="/data/models/Baichuan2-7B-Chat"
            value={path}
            onChange={(event) => setPath(event.target.value.trim())}
          />
          <span className="help">{t('models.path.help')}</span>
        </div>
        {register.isError && <ErrorNotice error={register.error} />}
        <div className="dialog-end">
          <button type="button" className="button" onClick={close}>
            {t('back')}
          </button>
          <button type="submit" className="button primary" disabled={register.isPending}>
            {t('models.register')}
          </button>
        </div>
      </form>
    </Dialog>
  );
}
