import { useCallback, useMemo } from 'react';
import { useLocation, useSearch } from 'wouter';

type Change = Record<string, string | null>;

/** Use the query string as state, so that links and the back button preserve filters. */
export function useSearchState(): [URLSearchParams, (change: Change) => void] {
  const search = useSearch();
  const [location, navigate] = useLocation();
  const values = useMemo(() => new URLSearchParams(search), [search]);
  const change = useCallback(
    (changed: Change) => {
      const next = new URLSearchParams(search);
      for (const [name, value] of Object.entries(changed)) {
        if (value === null || value === '') next.delete(name);
        else next.set(name, value);
      }
      const text = next.toString();
      navigate(text ? `${location}?${text}` : location, { replace: true });
    },
    [search, location, navigate],
  );
  return [values, change];
}
