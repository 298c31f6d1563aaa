/** The prelude, by transcripts. */

import { replayPrelude } from '../support/replay.ts';
import { testTranscripts } from '../support/run-transcripts.ts';

testTranscripts(new URL('./', import.meta.url), replayPrelude);
