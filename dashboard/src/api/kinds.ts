/** The job kinds; the submit page, which is loaded later, knows their fields. */
export const KINDS = ['convert', 'evaluate', 'finetune', 'generate', 'preview', 'pull', 'quantize', 'serve'] as const;
