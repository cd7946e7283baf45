import { useMutation } from '@tanstack/react-query';
import { type ReactNode, useState } from 'react';

import { useT } from '@/i18n';
import { ErrorNotice } from '@/ui/basics';
import { Dialog } from '@/ui/dialog';

interface Confirmed {
  label: string;
  title: string;
  children: ReactNode;
  action: () => Promise<unknown>;
  done?: () => void;
  danger?: boolean;
  small?: boolean;
}

/** A button that asks for confirmation and shows the error of its action. */
export function ConfirmButton({ label, title, children, action, done, danger, small }: Confirmed) {
  const t = useT();
  const [open, setOpen] = useState(false);
  const run = useMutation({
    mutationFn: action,
    onSuccess: () => {
      setOpen(false);
      done?.();
    },
  });
  const tone = `button${danger ? ' danger' : ''}${small ? ' small' : ''}`;
  const close = () => {
    run.reset();
    setOpen(false);
  };
  return (
    <>
      <button type="button" className={tone} onClick={() => setOpen(true)}>
        {label}
      </button>
      {open && (
        <Dialog title={title} close={close}>
          <div>{children}</div>
          {run.isError && <ErrorNotice error={run.error} />}
          <div className="dialog-end">
            <button type="button" className="button" onClick={close}>
              {t('back')}
            </button>
            <button
              type="button"
              className={danger ? 'button danger' : 'button primary'}
              disabled={run.isPending}
              onClick={() => run.mutate()}
            >
              {label}
            </button>
          </div>
        </Dialog>
      )}
    </>
  );
}
