import { useId } from 'react';

import { useLanguage } from '@/i18n';
import { fieldHelp, fieldLabel } from '@/i18n/fields';

import type { Wrong } from './draft';
import { FileInput } from './file-input';
import { ModelInput } from './model-input';
import { PairsInput } from './pairs-input';
import type { Field } from './schema';

export interface InputProps {
  id: string;
  field: Field;
  value: unknown;
  change: (value: unknown) => void;
  described: string | undefined;
  invalid: boolean;
}

/** Format the limits of a number, such as "1 – 1024"; empty if there are none. */
function limitsOf(field: Field): string {
  const { minimum, maximum, exclusiveMinimum, exclusiveMaximum } = field.schema;
  const low = minimum ?? (exclusiveMinimum !== undefined ? `>${exclusiveMinimum}` : undefined);
  const high = maximum ?? (exclusiveMaximum !== undefined ? `<${exclusiveMaximum}` : undefined);
  return low === undefined && high === undefined ? '' : `${low ?? ''} – ${high ?? ''}`;
}

/** A form field with its label, help, limits and error. */
export function FieldInput({
  field,
  value,
  change,
  wrong,
}: {
  field: Field;
  value: unknown;
  change: (value: unknown) => void;
  wrong: Wrong | undefined;
}) {
  const { t, language } = useLanguage();
  const id = useId();
  const message = wrong && ('text' in wrong ? wrong.text : t(wrong.key, wrong.values));
  const limits = field.widget === 'number' ? limitsOf(field) : '';
  const help = [field.name === 'model' ? '' : fieldHelp(field.name, field.help, language), limits]
    .filter(Boolean)
    .join(' · ');
  const described = [help && `${id}-help`, message && `${id}-wrong`].filter(Boolean).join(' ') || undefined;
  const wide = ['lines', 'json', 'choices', 'pairs'].includes(field.widget);
  const label = fieldLabel(field.name, language);
  const props: InputProps = { id, field, value, change, described, invalid: message !== undefined };
  const grouped = field.widget === 'choices' || field.widget === 'pairs';
  return (
    <div
      className={wide ? 'field wide' : 'field'}
      data-field={field.name}
      role={grouped ? 'group' : undefined}
      aria-labelledby={grouped ? `${id}-label` : undefined}
    >
      {field.widget !== 'flag' &&
        (grouped ? (
          <span className="field-label" id={`${id}-label`}>
            {label}
          </span>
        ) : (
          <label htmlFor={id}>
            {label}
            {field.required && <span aria-hidden="true"> *</span>}
          </label>
        ))}
      {field.widget === 'flag' ? (
        <label className="check">
          <Control {...props} />
          {label}
        </label>
      ) : (
        <Control {...props} />
      )}
      {message && (
        <span className="wrong" id={`${id}-wrong`}>
          {message}
        </span>
      )}
      {help && (
        <span className="help" id={`${id}-help`}>
          {help}
        </span>
      )}
    </div>
  );
}

function Control(props: InputProps) {
  const { id, field, value, change, described, invalid } = props;
  const { t } = useLanguage();
  const common = { id, 'aria-describedby': described, 'aria-invalid': invalid || undefined };
  const text = value === undefined || value === null ? '' : String(value);
  const fallback = field.schema.default;
  switch (field.widget) {
    case 'choice': {
      const preset = fallback === undefined || fallback === null ? '' : String(fallback);
      return (
        <select {...common} value={text || preset} onChange={(event) => change(event.target.value || undefined)}>
          {preset === '' && <option value="">{field.required ? t('form.choose') : t('form.unset')}</option>}
          {field.schema.enum?.map((option) => (
            <option key={String(option)} value={String(option)}>
              {String(option)}
            </option>
          ))}
        </select>
      );
    }
    case 'flag':
      return (
        <input
          {...common}
          type="checkbox"
          checked={Boolean(value ?? fallback)}
          onChange={(event) => change(event.target.checked)}
        />
      );
    case 'number':
      return (
        <input
          {...common}
          inputMode="decimal"
          className="tabular"
          autoComplete="off"
          value={text}
          placeholder={fallback === undefined || fallback === null ? t('form.unset') : String(fallback)}
          onChange={(event) => change(event.target.value.trim())}
        />
      );
    case 'lines':
    case 'json':
      return (
        <textarea
          {...common}
          className={field.widget === 'json' ? 'mono' : undefined}
          value={text}
          placeholder={t(field.widget === 'json' ? 'form.json.hint' : 'form.lines.hint')}
          onChange={(event) => change(event.target.value)}
        />
      );
    case 'choices':
      return <ChoicesInput {...props} />;
    case 'pairs':
      return <PairsInput {...props} />;
    case 'file':
      return <FileInput {...props} />;
    case 'model':
      return <ModelInput {...props} />;
    default:
      return <input {...common} value={text} autoComplete="off" onChange={(event) => change(event.target.value)} />;
  }
}

function ChoicesInput({ field, value, change }: InputProps) {
  const chosen = (value ?? field.schema.default ?? []) as string[];
  return (
    <div className="row">
      {field.schema.items?.enum?.map((each) => {
        const option = String(each);
        const toggle = (on: boolean) => change(on ? [...chosen, option] : chosen.filter((other) => other !== option));
        return (
          <label key={option} className="check">
            <input
              type="checkbox"
              checked={chosen.includes(option)}
              onChange={(event) => toggle(event.target.checked)}
            />
            <code>{option}</code>
          </label>
        );
      })}
    </div>
  );
}
