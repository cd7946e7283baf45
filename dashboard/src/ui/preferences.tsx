import { type Language, useLanguage } from '@/i18n';

import { type Theme, useTheme } from './theme';

/** Language and theme, which are stored in the browser. */
export function Preferences() {
  const { t, language, choose } = useLanguage();
  const [theme, setTheme] = useTheme();
  return (
    <div className="row">
      <select
        className="compact"
        aria-label={t('language')}
        value={language}
        onChange={(event) => choose(event.target.value as Language)}
      >
        <option value="en">English</option>
        <option value="zh">中文</option>
      </select>
      <select
        className="compact"
        aria-label={t('theme')}
        value={theme}
        onChange={(event) => setTheme(event.target.value as Theme)}
      >
        <option value="system">{t('theme.system')}</option>
        <option value="light">{t('theme.light')}</option>
        <option value="dark">{t('theme.dark')}</option>
      </select>
    </div>
  );
}
