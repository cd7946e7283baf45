/** Convert a field name to a label: "learning_rate" to "Learning rate". */
export function humanize(name: string): string {
  const words = name.replaceAll('_', ' ').replace(/\b(lora|tf32|adam)\b/g, (word) => (word === 'lora' ? 'LoRA' : word));
  return words.charAt(0).toUpperCase() + words.slice(1);
}
