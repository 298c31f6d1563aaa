/** What a measure found for one system in the variant that it is part of. */
export interface Figure {
  /** The name of the system. */
  readonly system: string;
  /** The median of the rounds; undefined when there is none, and then `note` has the reason. */
  readonly median: number | undefined;
  /** The least and the most of the rounds. */
  readonly low: number;
  readonly high: number;
  /** How much of its core the client used in the busiest round: 0 to 1, or undefined where it means nothing. */
  readonly busy: number | undefined;
  /**
   * How much of a core the server used, all its processes together: the median. Less than 1 when it waited, or
   * when something else ran on its core.
   */
  readonly serverBusy: number | undefined;
  /**
   * The CPU time that the server and all its processes spent on a session, in milliseconds, over all rounds:
   * what others on its core disturb least. Undefined where there are no sessions to count.
   */
  readonly cpuEach: number | undefined;
  /** What else is to be known. May be empty. */
  readonly note: string;
}

/** One measure under one set of conditions, for all systems. */
export interface Result {
  /** The letter of the measure. */
  readonly measure: string;
  /** What is measured, and with which certificate and smtpd. */
  readonly title: string;
  readonly unit: string;
  readonly better: 'more' | 'less';
  /** Of memory: whether that of the smtpds is included. */
  readonly withSmtpds?: boolean;
  readonly figures: readonly Figure[];
  /** What stands under the table: a sentence, or undefined. */
  readonly remark?: string;
}

/** The middle one of some figures; NaN of none. */
export function median(figures: readonly number[]): number {
  return percentile(figures, 50);
}

/** The least figure that so many per cent of all do not exceed; NaN of none. */
export function percentile(figures: readonly number[], percent: number): number {
  const sorted = [...figures].sort((a, b) => a - b);
  const rank = Math.ceil((sorted.length * percent) / 100);
  return sorted[Math.max(rank, 1) - 1] ?? Number.NaN;
}

/** Makes a Figure of the rounds of one system. */
export function figureOf(
  system: string,
  rounds: readonly number[],
  { busy, serverBusy, cpuEach, note = '' }: Partial<Omit<Figure, 'system' | 'median' | 'low' | 'high'>> = {},
): Figure {
  const [low, high] = [Math.min(...rounds), Math.max(...rounds)];
  return { system, median: median(rounds), low, high, busy, serverBusy, cpuEach, note };
}

/** A Figure for a system that could not be measured. */
export function noFigure(system: string, why: string): Figure {
  const none = { busy: undefined, serverBusy: undefined, cpuEach: undefined };
  return { system, median: undefined, low: Number.NaN, high: Number.NaN, ...none, note: why };
}
