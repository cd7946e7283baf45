import { useState } from 'react';

export type Theme = 'system' | 'light' | 'dark';

const STORED = 'baichuan.theme';

export function storedTheme(): Theme {
  const theme = localStorage.getItem(STORED);
  return theme === 'light' || theme === 'dark' ? theme : 'system';
}

/** Show a theme; "system" follows the operating system. */
export function applyTheme(theme: Theme): void {
  if (theme === 'system') document.documentElement.removeAttribute('data-theme');
  else document.documentElement.dataset.theme = theme;
  window.dispatchEvent(new Event('themechange'));
}

export function useTheme(): [Theme, (theme: Theme) => void] {
  const [theme, setTheme] = useState(storedTheme);
  return [
    theme,
    (chosen) => {
      localStorage.setItem(STORED, chosen);
      applyTheme(chosen);
      setTheme(chosen);
    },
  ];
}
