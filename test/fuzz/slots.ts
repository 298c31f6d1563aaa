import type { SmtpdSlot } from '../../lib/smtpd/on-demand.ts';
import type { Random } from './random.ts';
import type { RealSmtpd } from './real-smtpd.ts';

const PLANS = ['now', 'now', 'now', 'later', 'refused', 'refused-later', 'never'] as const;

/** A slot that was requested. It is granted or refused, at once or later, or never. */
export interface GeneratedSlot {
  /** For who has requested it. */
  readonly slot: SmtpdSlot;
  /** The smtpd that was started with it. */
  real: RealSmtpd | undefined;
  /** Whether the request was refused, or waited for too long. */
  isRefused: boolean;
  isSettled(): boolean;
  /** How often it was released. */
  released(): number;
  /** Grants or refuses it. @returns false if that was done, it was released, or it never will be. */
  settle(): boolean;
}

/**
 * Generates a slot.
 *
 * @param released is called whenever it is released.
 */
export function generateSlot(random: Random, released: (slot: GeneratedSlot) => void): GeneratedSlot {
  const plan = random.pick(PLANS);
  let isSettled = false;
  let count = 0;
  let resolve: (admission: string) => void = () => {};
  const admission = new Promise<string>((settle) => {
    resolve = settle;
  });
  const generated: GeneratedSlot = {
    slot: {
      admission,
      release: () => {
        count += 1;
        released(generated);
      },
    },
    real: undefined,
    isRefused: false,
    isSettled: () => isSettled,
    released: () => count,
    settle: () => {
      if (isSettled || count > 0 || plan === 'never') return false;
      isSettled = true;
      generated.isRefused = plan.startsWith('refused');
      resolve(generated.isRefused ? 'no-room' : 'admitted');
      return true;
    },
  };
  if (plan === 'now' || plan === 'refused') generated.settle();
  return generated;
}
