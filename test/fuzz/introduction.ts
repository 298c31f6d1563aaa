import type { Introduction } from '../../lib/smtp/prelude.ts';
import type { Reply } from '../../lib/smtp/reply-reader.ts';
import type { Random } from './random.ts';

/** A generated introduction, and each reply of it as the client receives it. */
export interface GeneratedIntroduction {
  readonly introduction: Introduction;
  readonly greeting: string;
  readonly ehlo: string;
  readonly helo: string;
}

/**
 * Generates an introduction.
 *
 * @param mayBeLarge whether a reply may have tens of thousands of octets.
 */
export function generateIntroduction(random: Random, mayBeLarge: boolean): GeneratedIntroduction {
  const [greeting, ehlo, helo] = ['greeting', 'ehlo', 'helo'].map((name) => {
    const code = random.chance(90) ? 250 : 200 + random.below(400);
    const isLarge = mayBeLarge && random.chance(5);
    const texts = [`${name} \xe9`];
    while (random.chance(40)) texts.push(random.pick(['', ' ', 'SIZE 1000', 'AUTH PLAIN']));
    if (isLarge) for (let left = random.below(60); left > 0; left--) texts.push('x'.repeat(1000));
    return { reply: { code, texts }, text: textOf({ code, texts }) };
  });
  if (greeting === undefined || ehlo === undefined || helo === undefined) throw new Error('three replies');
  return {
    introduction: { greeting: greeting.reply, ehlo: ehlo.reply, helo: helo.reply },
    greeting: greeting.text,
    ehlo: ehlo.text,
    helo: helo.text,
  };
}

function textOf({ code, texts }: Reply): string {
  return texts.map((text, index) => `${code}${index + 1 < texts.length ? '-' : ' '}${text}\r\n`).join('');
}
