import { useModels } from '@/api/queries';
import { useT } from '@/i18n';

import type { InputProps } from './field-input';

/** Input of a model id, with the project's models as suggestions. */
export function ModelInput({ id, field, value, change, described, invalid }: InputProps) {
  const t = useT();
  const models = useModels();
  const wanted = field.name === 'adapter' ? ['adapter'] : null;
  const shown = models.data?.filter((model) => wanted === null || wanted.includes(model.kind)) ?? [];
  return (
    <>
      <input
        id={id}
        list={`${id}-models`}
        aria-describedby={described}
        aria-invalid={invalid || undefined}
        value={value === undefined ? '' : String(value)}
        placeholder={t(field.required ? 'form.model' : 'form.unset')}
        autoComplete="off"
        spellCheck={false}
        onChange={(event) => change(event.target.value.trim())}
      />
      <datalist id={`${id}-models`}>
        {shown.map((model) => (
          <option key={model.id} value={model.id}>
            {model.kind}
          </option>
        ))}
      </datalist>
    </>
  );
}
