/** One generated prelude. At every step it must do what the model does. */

import { LINE_LIMIT } from '../../lib/smtp/line.ts';
import { createPrelude, type PreludeStep } from '../../lib/smtp/prelude.ts';
import { createPreludeModel } from '../support/prelude-model.ts';
import { clientInput } from './input.ts';
import { generateIntroduction } from './introduction.ts';
import { firstPiece, SIZES } from './pieces.ts';
import { createRandom } from './random.ts';
import type { Play } from './run.ts';
import { check, checkSame } from './violation.ts';

const ERROR_LIMITS = [1, 3, 5, 100] as const;
const REFUSAL = '451 4.3.2 no room\r\n';

/** Of the prelude; `taken` when its rest was taken. */
type State = 'open' | 'needed' | 'ended' | 'taken';

/** Plays one prelude until it has ended, or what is left of it was taken. */
export const playPrelude: Play = (seed, number, record) => {
  const random = createRandom(seed, number);
  const input = clientInput(random);
  const size = random.pick(SIZES);
  const { introduction, ...replies } = generateIntroduction(random, false);
  const errorLimit = random.pick(ERROR_LIMITS);
  const hello = random.pick([undefined, 'EHLO before', 'HELO \xff']);
  const model = createPreludeModel(input.text, { ...replies, hello, errorLimit });
  let introduced = hello;
  const prelude = createPrelude({
    introduction,
    hello,
    errorLimit,
    introduced: (line) => {
      introduced = line;
    },
  });
  let readTo = 0;
  let clientEnded = false;
  let timedOut = false;
  let needs = 0;
  let state: State = 'open';
  let toClient = '';

  function is(what: State): boolean {
    return state === what;
  }

  function settle(): void {
    let actual = '';
    for (let step = prelude.next(); step !== undefined; step = prelude.next()) {
      record?.(step);
      actual += carryOut(step);
    }
    checkSame(actual, model.settle());
  }

  function carryOut(step: PreludeStep): string {
    check(state === 'open', 'there are no steps after smtpd-needed and after the end');
    switch (step.type) {
      case 'to-client':
        toClient += step.bytes.toString('latin1');
        return `S${step.bytes.toString('latin1')}`;
      case 'notice':
        return '!';
      case 'smtpd-needed':
        check(step.hello === introduced, 'the hello was introduced');
        state = 'needed';
        needs++;
        return `?${step.hello}`;
      case 'end':
        state = 'ended';
        return '=';
    }
  }

  function send(): void {
    const bytes = Buffer.from(firstPiece(input.text.slice(readTo), size, random), 'latin1');
    record?.({ type: 'client-sends', bytes });
    readTo += bytes.length;
    model.read(bytes.length);
    prelude.fromClient(bytes);
    bytes.fill(0x58);
  }

  function endClient(): void {
    record?.({ type: 'client-ends' });
    clientEnded = true;
    model.clientEnded();
    prelude.clientEnded();
  }

  function timeOut(): void {
    record?.({ type: 'timeout' });
    timedOut = true;
    model.timedOut();
    prelude.timedOut();
  }

  function refuse(): void {
    const bytes = Buffer.from(REFUSAL);
    record?.({ type: 'refuse', bytes });
    state = 'open';
    model.refuse(REFUSAL);
    prelude.refuse(bytes);
  }

  function take(isDropped: boolean): void {
    if (isDropped) record?.({ type: 'drop' });
    const expected = model.rest(isDropped);
    if (isDropped) prelude.drop();
    // The beginning of a line over the limit is discarded unless a command needs smtpd.
    const isWhole = state === 'needed' || !isLong(expected);
    state = 'taken';
    const rest = prelude.takeRest();
    record?.({ type: 'left-client', bytes: rest });
    if (isWhole) checkSame(rest.toString('latin1'), expected, 'rest: ');
    check(prelude.takeRest().length === 0, 'the rest is given once');
  }

  settle();
  while (is('open') || is('needed')) {
    const hasMore = readTo < input.text.length;
    if (random.chance(0.3)) timeOut();
    else if (is('needed') && random.chance(60)) {
      if (random.chance(50)) refuse();
      else take(random.chance(40));
    } else if (hasMore) send();
    else if (!clientEnded) endClient();
    settle();
  }
  if (is('ended')) {
    timeOut();
    settle();
    take(false);
  }
  settle();
  if (!input.sound || timedOut || needs > 0 || /^(?:421|221) /m.test(toClient)) return;
  const count = toClient.match(/^\d{3} /gm)?.length;
  check(count === 1 + input.commands, `${count} replies to ${input.commands} commands`);
};

/** Whether a text ends with a part of a line that is over the limit. */
function isLong(text: string): boolean {
  return text.length - text.lastIndexOf('\n') > LINE_LIMIT;
}
