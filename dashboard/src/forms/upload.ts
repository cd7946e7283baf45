import { address, ApiError, type Schema, toProblem, UnreachableError } from '@/api/client';

/** Upload a file with XMLHttpRequest, because `fetch` does not report upload progress. */
export function uploadFile(
  file: File,
  purpose: string,
  progress: (fraction: number) => void,
  signal: AbortSignal,
): Promise<Schema<'FileObject'>> {
  return new Promise((resolve, reject) => {
    const form = new FormData();
    form.append('purpose', purpose);
    form.append('file', file);
    const upload = new XMLHttpRequest();
    upload.open('POST', address('/v1/files'));
    upload.upload.onprogress = (event) => {
      if (event.lengthComputable) progress(event.loaded / event.total);
    };
    upload.onload = () => {
      if (upload.status === 200) resolve(JSON.parse(upload.responseText) as Schema<'FileObject'>);
      else reject(new ApiError(toProblem(upload.status, upload.statusText, upload.responseText)));
    };
    upload.onerror = () => reject(new UnreachableError('upload'));
    upload.onabort = () => reject(new DOMException('aborted', 'AbortError'));
    signal.addEventListener('abort', () => upload.abort());
    upload.send(form);
  });
}
