import type { components, paths } from '@/api/schema';

/** Schemas of the API by name, for example `Schema<'JobObject'>`. */
export type Schema<Name extends keyof components['schemas']> = components['schemas'][Name];
export type Problem = Schema<'Problem'>;

type Method = 'get' | 'post' | 'delete' | 'put' | 'patch';
type Operation<P extends keyof paths, M extends Method> = NonNullable<paths[P][M & keyof paths[P]]>;
type Parameters<O, Where extends 'path' | 'query'> = O extends { parameters: infer All }
  ? Where extends keyof All
    ? NonNullable<All[Where]>
    : never
  : never;
type JsonOf<Content> = Content extends { content: { 'application/json': infer Body } } ? Body : never;
type Body<O> = O extends { requestBody?: infer R } ? JsonOf<NonNullable<R>> : never;
type Answer<O> = O extends { responses: infer R } ? JsonOf<R[Extract<keyof R, 200 | 201 | 202>]> : never;

export type PathsWith<M extends Method> = {
  [P in keyof paths]: paths[P] extends Record<M, unknown> ? P : never;
}[keyof paths];

interface Request<O> {
  path?: Parameters<O, 'path'>;
  query?: Parameters<O, 'query'>;
  body?: Body<O>;
  headers?: Record<string, string>;
  signal?: AbortSignal;
}

/** An error response of the API; `problem` is its body. */
export class ApiError extends Error {
  constructor(readonly problem: Problem) {
    super(problem.detail);
    this.name = 'ApiError';
  }

  get status(): number {
    return this.problem.status;
  }
}

/** The service could not be reached, so it is unknown whether the request had an effect. */
export class UnreachableError extends Error {
  constructor(cause: unknown) {
    super('unreachable', { cause });
    this.name = 'UnreachableError';
  }
}

/** Fill in the parameters of an operation's URL. */
export function address(path: string, values: object = {}, query: object = {}): string {
  const known = values as Record<string, unknown>;
  const filled = path.replace(/\{(\w+)(?::path)?\}/g, (_, name: string) => encodeURIComponent(String(known[name])));
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each !== undefined && each !== null && each !== '') search.append(name, String(each));
    }
  }
  const text = search.toString();
  return text ? `${filled}?${text}` : filled;
}

/** Make a request; aborted requests reject with the browser's AbortError. */
export async function request(url: string, init: RequestInit = {}): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(url, { credentials: 'same-origin', ...init });
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') throw error;
    throw new UnreachableError(error);
  }
  if (!response.ok) throw new ApiError(await readProblem(response));
  return response;
}

/** Call an operation of the API and return its JSON response. */
export async function call<M extends Method, P extends PathsWith<M>>(
  method: M,
  path: P,
  { path: values, query, body, headers, signal }: Request<Operation<P, M>> = {},
): Promise<Answer<Operation<P, M>>> {
  const init: RequestInit = { method: method.toUpperCase(), headers: { Accept: 'application/json', ...headers } };
  if (signal) init.signal = signal;
  if (body !== undefined) {
    init.body = JSON.stringify(body);
    init.headers = { ...init.headers, 'Content-Type': 'application/json' };
  }
  const response = await request(address(path, values, query), init);
  return response.status === 204 ? (undefined as never) : response.json();
}

async function readProblem(response: Response): Promise<Problem> {
  return toProblem(response.status, response.statusText, await response.text());
}

/** Read a problem document; other error responses, such as those of proxies, are converted to one. */
export function toProblem(status: number, statusText: string, text: string): Problem {
  try {
    const body: unknown = JSON.parse(text);
    if (typeof body === 'object' && body !== null && 'detail' in body) return body as Problem;
  } catch {
    // Not JSON, so it comes from a proxy between the browser and the service.
  }
  const detail = statusText || `status ${status}`;
  const error = { message: detail, type: 'server_error', param: null, code: String(status) };
  return { type: 'about:blank', title: detail, status, detail, instance: '', error, errors: null };
}
