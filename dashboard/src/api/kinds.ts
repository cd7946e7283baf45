/** The job kinds. Their fields are in the submit page, which is loaded lazily. */
export const KINDS = ['convert', 'evaluate', 'finetune', 'generate', 'preview', 'pull', 'quantize', 'serve'] as const;
