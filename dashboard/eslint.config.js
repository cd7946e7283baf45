import js from '@eslint/js';
import reactHooks from 'eslint-plugin-react-hooks';
import tseslint from 'typescript-eslint';

export default tseslint.config(
  { ignores: ['dist', 'node_modules', 'src/api/schema.d.ts'] },
  js.configs.recommended,
  ...tseslint.configs.strict,
  reactHooks.configs.flat['recommended-latest'] ?? reactHooks.configs.flat.recommended,
  {
    rules: {
      eqeqeq: 'error',
      'react-hooks/incompatible-library': 'off', // about the React compiler, which is not used
      'max-lines': ['error', { max: 250, skipBlankLines: false, skipComments: false }],
      'no-restricted-syntax': [
        'error',
        // The content security policy blocks inline scripts and styles.
        { selector: "JSXAttribute[name.name='dangerouslySetInnerHTML']", message: 'Render elements instead of HTML.' },
      ],
    },
  },
  { files: ['src/i18n/*.ts'], rules: { 'max-lines': 'off' } }, // catalogues grow with the texts
  {
    files: ['scripts/**'],
    languageOptions: { globals: { process: 'readonly', console: 'readonly', URL: 'readonly' } },
  },
);
