import { type OptionGroup, stringOption, usage } from '../program/options.ts';
import type { StartSmtpd } from './program.ts';
import type { EnvelopeConnection, MessageSettings } from './with-envelope.ts';

/** The option for all programs with an envelope. */
export const newlineOptions: OptionGroup<Pick<MessageSettings, 'strictNewlines'>> = {
  rows: [{ name: 'strict-newlines', help: 'refuse messages with a bare CR or LF' }],
  read: (values) => ({ strictNewlines: values['strict-newlines'] === true }),
};

/** What is done to messages, for the programs that add STARTTLS. */
export const messageOptions: OptionGroup<MessageSettings> = {
  rows: [
    {
      name: 'received',
      value: 'NAME',
      help: 'add a Received field with this host name, which records TLS and AUTH, to each message',
    },
    ...newlineOptions.rows,
  ],
  read: (values) => {
    const received = stringOption(values, 'received');
    if (received !== undefined && !/^[A-Za-z0-9.-]{1,255}$/.test(received)) {
      throw usage(`--received takes a host name, not ${JSON.stringify(received)}`);
    }
    return { received, ...newlineOptions.read(values) };
  },
};

/** Whether these settings need an envelope. */
export function needsEnvelope({ received, strictNewlines }: MessageSettings): boolean {
  return received !== undefined || strictNewlines;
}

/**
 * Puts an envelope around each smtpd of a connection, if the settings need one.
 *
 * @returns what starts these; `start` itself otherwise.
 */
export async function applyEnvelope(
  start: StartSmtpd,
  settings: MessageSettings,
  connection: EnvelopeConnection,
): Promise<StartSmtpd> {
  if (!needsEnvelope(settings)) return start;
  // Here, so that other sessions do not load it.
  const { withEnvelope } = await import('./with-envelope.ts');
  return withEnvelope(start, settings, connection);
}
