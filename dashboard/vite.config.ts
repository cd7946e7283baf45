import { fileURLToPath } from 'node:url';

import react from '@vitejs/plugin-react';
import { defineConfig } from 'vitest/config';

// `npm run dev` forwards requests to a running service; its API key is read from the environment, never from a file.
const service = process.env.BAICHUAN_URL ?? 'http://127.0.0.1:8000';
const key = process.env.BAICHUAN_API_KEY;

export default defineConfig({
  base: '/dashboard/',
  plugins: [react()],
  resolve: { alias: { '@': fileURLToPath(new URL('src', import.meta.url)) } },
  server: {
    proxy: { '/v1': { target: service, headers: key ? { Authorization: `Bearer ${key}` } : {} } },
  },
  build: {
    target: ['chrome123', 'firefox121', 'safari17.5'],
    // Inlined assets would be data: URLs, which the content security policy forbids.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    // Names with a hash of the content only, so that the same sources always give the same bundle.
    reportCompressedSize: false,
  },
  worker: { format: 'es' },
  test: { environment: 'happy-dom', include: ['tests/**/*.test.{ts,tsx}'] },
});
