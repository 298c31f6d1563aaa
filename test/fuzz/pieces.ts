import type { Random } from './random.ts';

/** How large packets are: everything, a line, a few bytes, or each in turn at random. */
export const SIZES = ['all', 'all', 'line', 'few', 'any'] as const;
export type Size = (typeof SIZES)[number];

/** The first packet of a text that is not empty. */
export function firstPiece(text: string, size: Size, random: Random): string {
  switch (size === 'any' ? random.pick(SIZES) : size) {
    case 'line':
      return text.slice(0, text.indexOf('\n') + 1 || undefined);
    case 'few':
      return text.slice(0, 1 + random.below(text.length > 3000 ? 3000 : 8));
    case 'any':
      return text.slice(0, 1 + random.below(text.length));
    default:
      return text;
  }
}
