package dev.mobilebundle.lm

import java.io.IOException

/** Why a bundle could not be imported. What was copied stays, so that a mended import goes on from there, but where the file is to blame. */
sealed class ImportError(message: String, cause: Throwable? = null) : IOException(message, cause) {
    /** The file is no packed bundle, or of a version that this app does not read. */
    class NotABundle(message: String, cause: Throwable? = null) : ImportError(message, cause)

    /** A file's sha256 or size is not what the manifest says. */
    class Damaged(val part: String) : ImportError("$part is damaged")

    /** The bundle needs more memory than this phone has for apps. */
    class DoesNotFit(val fit: MemoryFit) : ImportError("needs ${fit.neededBytes} bytes, ${fit.limitBytes} are for apps")

    /** The disk lacks the room. */
    class DiskFull(val neededBytes: Long, val freeBytes: Long) : ImportError("needs $neededBytes bytes, $freeBytes are free")

    /** The file ended early, is gone or cannot be read. */
    class Unreadable(message: String, cause: Throwable? = null) : ImportError(message, cause)

    /** The runner could not decode what the bundle stores in coded form. */
    class NotInstalled(val error: ModelError) : ImportError(error.detail, error)

    /** It was asked to stop. */
    class Stopped : ImportError("stopped")
}
