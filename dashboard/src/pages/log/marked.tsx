/** A text with all matches of the query marked; upper and lower case match like in the search. */
export function Marked({ text, query }: { text: string; query: string }) {
  if (query === '') return text;
  const parts: React.ReactNode[] = [];
  const [where, what] = [text.toLowerCase(), query.toLowerCase()];
  let from = 0;
  for (let at = where.indexOf(what); at !== -1; at = where.indexOf(what, from)) {
    parts.push(text.slice(from, at), <mark key={at}>{text.slice(at, at + what.length)}</mark>);
    from = at + what.length;
  }
  parts.push(text.slice(from));
  return parts;
}
